"""The settings that our webhooks should have in GitLab, how they differ from the actual ones, and settings of others
that keep events from us.
"""

from __future__ import annotations

import json
from typing import Any, get_args

import msgspec

from reconciler.config.models import HookConfig, Trigger
from reconciler.sources.hooks import Hook

GROUP_ONLY = ("member_events", "subgroup_events", "project_events")
"""Triggers that only a group's webhook has."""
TRIGGERS: tuple[str, ...] = tuple(name for name in get_args(Trigger) if name not in GROUP_ONLY)


SECRETS = ("token", "signing_token")
SHOWN_CHARS = 200
"""The longest excerpt of a filter or template, in characters."""


class Difference(msgspec.Struct, frozen=True):
    """A setting that differs; `have` is None if there is no webhook yet."""

    setting: str
    have: Any
    want: Any


def settings(hook: HookConfig, url: str) -> dict[str, Any]:
    """All settings that are sent to GitLab, including secrets. Triggers that the config does not name are off."""
    wanted = hook.triggers if hook.triggers is not None else TRIGGERS
    made: dict[str, Any] = {"url": url, "enable_ssl_verification": url.startswith("https://")}
    made |= {name: name in wanted for name in TRIGGERS}
    if hook.token is not None:
        made["token"] = hook.token.get_secret_value()
    if hook.signing_token is not None:
        made["signing_token"] = hook.signing_token.get_secret_value()
    return made


def differences(wanted: dict[str, Any], there: Hook | None) -> list[Difference]:
    """The settings that would change. GitLab does not show secrets; newer versions show whether there is one.
    Triggers that this GitLab does not have (an older version, another edition) are left out.
    """
    shown = {} if there is None else there.shown
    found = []
    for name, want in wanted.items():
        if name in SECRETS:
            if shown.get(f"{name}_present") is False:
                found.append(Difference(name, False, True))
            continue
        if there is not None and name not in shown:
            continue
        have = shown.get(name)
        if have != want and (there is not None or want):
            found.append(Difference(name, have, want))
    return found


def restrictions(there: Hook) -> list[str]:
    """Texts about settings in GitLab that leave events out or change bodies. They are set by people, so they are only
    reported, never changed.
    """
    found = []
    for name, value in there.shown.items():
        if not value or "filter" not in name or name == "branch_filter_strategy":
            continue
        if name == "push_events_branch_filter":
            strategy = there.shown.get("branch_filter_strategy") or "wildcard"
            if strategy != "all_branches":
                found.append(f"GitLab sends only pushes to branches that match {_short(value)} ({name}, {strategy})")
        else:
            found.append(f"GitLab sends only events that pass a filter ({name}: {_short(value)})")
    if template := there.shown.get("custom_webhook_template"):
        found.append(f"a custom template changes GitLab's bodies (custom_webhook_template: {_short(template)})")
    return found


def unsigned(hook: HookConfig, there: Hook) -> str | None:
    """Advice if GitLab did not store the config's signing token; None if it did, or if there is none."""
    if hook.signing_token is None or there.shown.get("signing_token_present") is True:
        return None
    why = "GitLab stored no signing token: it is older than 19.0, or its feature flag webhook_signing_token is off"
    if hook.token is None:
        return f"{why}. Its webhooks are rejected: also set `token`"
    return f"{why}. Its webhooks are accepted by their `token`"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}…"
