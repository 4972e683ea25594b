"""Webhook tokens that are easy to guess, for `check` and `serve` to warn about."""

from __future__ import annotations

from collections.abc import Iterator

from reconciler.cli.sample import SAMPLE_TOKEN
from reconciler.config.models import HookConfig
from reconciler.config.weak_secrets import SHORTEST_KEY, SHORTEST_TOKEN, guessable, guessable_key

MAKE_A_TOKEN = "`openssl rand -hex 20`"  # noqa: S105 - a command
MAKE_A_KEY = "`echo whsec_$(openssl rand -base64 32)`"


def weaknesses(hook: HookConfig) -> Iterator[str]:
    """A warning for each weak secret of a hook, with what to do."""
    if hook.token is not None:
        if hook.token.get_secret_value() == SAMPLE_TOKEN:
            yield f"its token is still {SAMPLE_TOKEN!r}: anyone could post events; set GITLAB_WEBHOOK_TOKEN"
        elif guessable(hook.token):
            yield (
                f"its token can be guessed, so anyone could post events: use {SHORTEST_TOKEN} or more random "
                f"characters; {MAKE_A_TOKEN} makes one, for the config and for GitLab"
            )
    if hook.signing_token is not None and guessable_key(hook.signing_token):
        yield (
            f"its signing token can be guessed, so anyone could post events: use {SHORTEST_KEY} bytes or more; "
            f"GitLab makes one, or {MAKE_A_KEY}"
        )
