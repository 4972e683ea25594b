"""Makes a sighting from a record of the Events API, by the tables of kinds."""

from __future__ import annotations

import hashlib
from typing import Any

from reconciler.events import keys, times
from reconciler.events.fields import LONGEST_NAME, dig, first_line, first_text, number, short, text
from reconciler.events.kinds import RECORD_ACTIONS, RECORD_TARGETS
from reconciler.events.sighting import Identity, Precision, Sighting, Summary
from reconciler.events.times import Millis

_WITHOUT_WEBHOOK = {"DesignManagement::Design": "design", "PersonalSnippet": "snippet", "ProjectSnippet": "snippet"}
"""The kinds of records that have no webhook, by their target type."""


def record_sighting(
    record: dict[str, Any], *, payload: str, project_id: int, project_path: str | None, seen_at: Millis
) -> Sighting:
    """Make the sighting of one record of `GET /projects/:id/events`.

    GitLab always writes an id and a time. A record without them is identified by its bytes and the time it was read.
    """
    sha = hashlib.sha256(payload.encode()).hexdigest()
    record_id = str(number(record.get("id")) or f"sha256:{sha}")
    created_at = times.parse(record.get("created_at"))
    happened_at = seen_at if created_at is None else created_at
    did = RECORD_ACTIONS.get(str(record.get("action_name")))
    target = _record_target(record, did)
    key = None if did is None or target is None else keys.record_key(target, did, record, project_id)
    precision = Precision.UNIQUE_ID if target == "note" or key is None else Precision.GITLAB_TIME
    return Sighting(
        source="project_events",
        source_id=record_id,
        identity=Identity(keys.bounded(key or f"project_events:{record_id}"), happened_at, precision),
        summary=Summary(
            kind=record_kind(record)[:LONGEST_NAME],
            action=short(text(record.get("action_name"))),
            project_id=project_id,
            project_path=short(project_path),
            author=short(first_text(record, "author_username", "author.username")),
            title=first_line(first_text(record, "target_title", "push_data.commit_title")),
            ref=short(first_text(record, "push_data.ref")),
        ),
        seen_at=seen_at,
        payload=payload,
        payload_sha=sha,
    )


def record_kind(record: dict[str, Any]) -> str:
    """The kind of webhook that a record corresponds to; for one without a webhook, a word of its own."""
    target = _record_target(record, RECORD_ACTIONS.get(str(record.get("action_name"))))
    if target == "push":
        return "tag_push" if dig(record, "push_data.ref_type") == "tag" else "push"
    if target is not None:
        return target
    return _WITHOUT_WEBHOOK.get(
        str(record.get("target_type")), (text(record.get("target_type")) or "project").lower()
    )


def _record_target(record: dict[str, Any], did: str | None) -> str | None:
    if did == "pushed":
        return "push"
    if did in ("joined", "left"):
        return "member"
    return RECORD_TARGETS.get(str(record.get("target_type")))
