"""Tokens of webhooks with which anybody could post events, for `check` and `serve` to say so."""

from __future__ import annotations

from collections.abc import Iterator

from reconciler.cli.init import SAMPLE_TOKEN
from reconciler.config.guessing import SHORTEST_KEY, SHORTEST_TOKEN, guessable, guessable_key
from reconciler.config.models import HookConfig

MAKE_A_TOKEN = "`openssl rand -hex 20`"  # noqa: S105 - a command
MAKE_A_KEY = "`echo whsec_$(openssl rand -base64 32)`"


def weaknesses(hook: HookConfig) -> Iterator[str]:
    """What is weak about a hook's secrets, and what to do."""
    if hook.token is not None:
        if hook.token.get_secret_value() == SAMPLE_TOKEN:
            yield f"its token is still {SAMPLE_TOKEN!r}: anyone could post events; set GITLAB_WEBHOOK_TOKEN"
        elif guessable(hook.token):
            yield (
                f"its token can be guessed, and anyone could post events then: {SHORTEST_TOKEN} characters or more "
                f"are needed, and not always the same; {MAKE_A_TOKEN} makes one, for here and for GitLab"
            )
    if hook.signing_token is not None and guessable_key(hook.signing_token):
        yield (
            f"its signing token can be guessed, and anyone could post events then: {SHORTEST_KEY} bytes or more are "
            f"needed; GitLab makes one, or {MAKE_A_KEY}"
        )
