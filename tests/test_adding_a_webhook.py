"""Adding a kind of webhook: a row in events/webhooks.py, and what belongs to it elsewhere: named if missing."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from reconciler.config.models import Trigger
from reconciler.events.kinds import MIRRORED, UNMIRRORED
from reconciler.events.webhooks import KIND_OF, WEBHOOKS, Webhook, kind_of
from reconciler.simulator.hooks import TRIGGERS as SIMULATED
from reconciler.sources.hook_settings import GROUP_ONLY
from tests.reconciler.events.test_webhooks import BODIES, IN_PROJECT, OF_NO_PROJECT

ROOT = Path(__file__).parents[1]
IRREGULAR = {
    "issue": "issues_events",
    "work_item": "issues_events",
    "merge_request": "merge_requests_events",
    "build": "job_events",
    "release": "releases_events",
    "access_token": "resource_access_token_events",
    "deploy_token": "resource_deploy_token_events",
}
"""The triggers that GitLab does not name after the kind."""


def trigger_of(webhook: Webhook) -> str | None:
    """What a webhook has to be subscribed to to send a kind; None for what only system hooks send."""
    return None if webhook.gitlab_name == "System hooks" else IRREGULAR.get(webhook.kind, f"{webhook.kind}_events")


def missing(webhook: Webhook) -> list[str]:
    """What a row of events/webhooks.py still needs, as `file: what`."""
    kind, trigger = webhook.kind, trigger_of(webhook)
    found = []
    if kind not in {row.kind for row in MIRRORED} | {name for name, _ in UNMIRRORED}:
        found.append(f"reconciler/events/kinds.py: no row says which key and time a {kind} has")
    if trigger is not None:
        if trigger not in get_args(Trigger):
            found.append(
                f"reconciler/config/models.py: {trigger} is not in Trigger (if GitLab calls it something else, "
                f"add {kind} to IRREGULAR in tests/test_adding_a_webhook.py)"
            )
        if f'"{trigger}"' not in _text("docs/config.schema.json"):
            found.append(f"docs/config.schema.json: no {trigger}; run `make schema`")
        if trigger not in GROUP_ONLY:
            found += _missing_in_simulator(trigger)
    found += _missing_bodies(webhook)
    if f"| `{kind}` |" not in _text("docs/kinds.md"):
        found.append(f"docs/kinds.md: no row for {kind}; run `make docs`")
    return found


def _missing_in_simulator(trigger: str) -> list[str]:
    headers = [header for header, sends in SIMULATED.items() if sends == trigger]
    if not headers:
        return [f"reconciler/simulator/hooks.py: no X-Gitlab-Event header of TRIGGERS leads to {trigger}"]
    sending = "".join(
        file.read_text(encoding="utf-8")
        for file in (ROOT / "reconciler" / "simulator").glob("*.py")
        if file.name != "hooks.py"
    )
    return [
        f"reconciler/simulator/: nothing that happens there sends a {header!r}"
        for header in headers
        if f'"{header}"' not in sending
    ]


def _missing_bodies(webhook: Webhook) -> list[str]:
    documented = {name: body for name, body in BODIES.items() if kind_of(body) == webhook.kind}
    found = []
    if not documented:
        found.append(f"tests/data/documented.json: no body of the kind {webhook.kind}")
    event_names = {body.get("event_name") for body in documented.values()}
    found += [
        f"tests/data/documented.json: no body with the event_name {name}"
        for name in webhook.actions
        if KIND_OF.get(name) == webhook.kind and name not in event_names
    ]
    found += [
        f"tests/reconciler/events/test_webhooks.py: neither IN_PROJECT nor OF_NO_PROJECT has {name!r}"
        for name in documented
        if name not in IN_PROJECT and name not in OF_NO_PROJECT
    ]
    return found


def _text(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


@pytest.mark.parametrize("webhook", WEBHOOKS, ids=lambda webhook: webhook.kind)
def test_nothing_is_missing(webhook: Webhook) -> None:
    assert missing(webhook) == []


def test_each_file_is_named_for_a_kind_that_has_only_its_row() -> None:
    named = missing(Webhook("invented", "Invented events", ("made",)))
    assert [message.partition(":")[0] for message in named] == [
        "reconciler/events/kinds.py",
        "reconciler/config/models.py",
        "docs/config.schema.json",
        "reconciler/simulator/hooks.py",
        "tests/data/documented.json",
        "docs/kinds.md",
    ]


def test_every_trigger_belongs_to_a_kind() -> None:
    sent = {trigger_of(webhook) for webhook in WEBHOOKS}
    assert {name for name in get_args(Trigger) if name.removeprefix("confidential_") not in sent} == set()


def test_every_documented_body_is_of_a_known_kind() -> None:
    known = {webhook.kind for webhook in WEBHOOKS}
    assert {name for name, body in BODIES.items() if kind_of(body) not in known} == set()
