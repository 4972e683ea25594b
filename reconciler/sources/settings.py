"""What a webhook of ours should be set to in GitLab, and how it differs from what is there."""

from __future__ import annotations

from typing import Any, get_args

import msgspec

from reconciler.config.models import Hook as HookConfig
from reconciler.config.models import Trigger
from reconciler.sources.hooks import Hook

GROUP_ONLY = ("member_events", "subgroup_events", "project_events")
"""Triggers that only a group's webhook has."""
TRIGGERS: tuple[str, ...] = tuple(name for name in get_args(Trigger) if name not in GROUP_ONLY)


class Difference(msgspec.Struct, frozen=True):
    """One setting that is not as it should be; `have` is None where there is no webhook yet."""

    setting: str
    have: Any
    want: Any


def settings(hook: HookConfig, url: str) -> dict[str, Any]:
    """Everything that GitLab is told, secrets included. What the config does not ask for is switched off."""
    wanted = hook.triggers if hook.triggers is not None else TRIGGERS
    made: dict[str, Any] = {"url": url, "enable_ssl_verification": url.startswith("https://")}
    made |= {name: name in wanted for name in TRIGGERS}
    if hook.token is not None:
        made["token"] = hook.token.get_secret_value()
    if hook.signing_token is not None:
        made["signing_token"] = hook.signing_token.get_secret_value()
    return made


def differences(wanted: dict[str, Any], there: Hook | None) -> list[Difference]:
    """What would change, without secrets: GitLab does not show them. Triggers that this GitLab does not know
    (an older version, another edition) are left out.
    """
    shown = {} if there is None else there.shown
    found = []
    for name, want in wanted.items():
        if name in ("token", "signing_token") or (there is not None and name not in shown):
            continue
        have = shown.get(name)
        if have != want and (there is not None or want):
            found.append(Difference(name, have, want))
    return found
