"""From raw material to a sighting: reads a webhook's body or an Events API record by the table of kinds."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping
from typing import Any

import msgspec

from reconciler.events import keys, times
from reconciler.events.fields import LONGEST_NAME, dig, first_number, first_text, number, short, text, word
from reconciler.events.fingerprint import fingerprint
from reconciler.events.kinds import (
    MIRRORED,
    RECORD_ACTIONS,
    RECORD_TARGETS,
    UNMIRRORED,
    Mirrored,
)
from reconciler.events.sighting import HOOK_TEST, Identity, Precision, Sighting, Summary
from reconciler.events.times import Millis
from reconciler.events.webhooks import kind_of, object_of, project_path_of, webhook_of

_BY_WEBHOOK: dict[tuple[str, str | None], Mirrored] = {
    (row.kind, action): row for row in MIRRORED for action in row.actions
}
_TITLE_LENGTH = 200
_UNMATCHED = {"DesignManagement::Design": "design", "PersonalSnippet": "snippet", "ProjectSnippet": "snippet"}
"""What a record may be about that has no webhook, as a kind."""


def webhook_sighting(
    body: dict[str, Any],
    *,
    payload: str,
    source: str,
    source_id: str | None,
    event_uuid: str | None,
    seen_at: Millis,
    headers: dict[str, str],
    project_ids: Mapping[str, int],
) -> Sighting:
    """Read one webhook delivery.

    `source_id` is the `Idempotency-Key` (GitLab 17.4 and newer). Without it the delivery is known by its
    `X-Gitlab-Event-UUID` together with a hash of the body, never by the UUID alone: deliveries of one chain
    share it (gitlab-facts, section 1). `project_ids` finds the id of a project that the body only names.
    """
    sha = fingerprint(body)
    if not source_id:
        source_id = f"{event_uuid or uuid.uuid4()}:{sha[:32]}"
    kind = kind_of(body)
    action = _action(kind, body)
    path = project_path_of(kind, body, headers.get("X-Gitlab-Instance"))
    project_id = first_number(body, *webhook_of(kind).project_id)
    if project_id is None and path is not None:
        project_id = project_ids.get(path)
    project = project_id if project_id is not None else path
    identity = _webhook_identity(kind, action, body, project, seen_at, sha) or Identity(
        f"{source}:{source_id}", seen_at, Precision.RECEIVED_REPEATABLE
    )
    return Sighting(
        source=source,
        source_id=source_id,
        identity=msgspec.structs.replace(identity, key=keys.bounded(identity.key)),
        summary=summarise(body, project_id, path),
        seen_at=seen_at,
        payload=payload,
        payload_sha=sha,
        headers=headers,
    )


def as_test(sighting: Sighting) -> Sighting:
    """A delivery that we made GitLab send: it tells of nothing, and is kept so that GitLab's log brings no news."""
    identity = Identity(
        f"{HOOK_TEST}:{sighting.source}:{sighting.source_id}", sighting.seen_at, Precision.RECEIVED_REPEATABLE
    )
    summary = msgspec.structs.replace(sighting.summary, kind=HOOK_TEST)
    return msgspec.structs.replace(sighting, identity=identity, summary=summary)


def summarise(body: dict[str, Any], project_id: int | None, project_path: str | None = None) -> Summary:
    """What a webhook's body, or one rebuilt in its shape, shows in a list."""
    kind = kind_of(body)
    places = webhook_of(kind)
    return Summary(
        kind=kind[:LONGEST_NAME],
        action=short(_action(kind, body)),
        project_id=project_id,
        project_path=short(project_path or project_path_of(kind, body, None)),
        author=short(first_text(body, *places.author)),
        title=_cut(first_text(body, *places.title) or _head_commit_title(body)),
        ref=short(first_text(body, *places.ref)),
        object=short(object_of(kind, body)),
    )


def record_sighting(
    record: dict[str, Any], *, payload: str, project_id: int, project_path: str | None, seen_at: Millis
) -> Sighting:
    """Read one record of `GET /projects/:id/events`.

    GitLab always writes an id and a time; a record without is known by its bytes and the time it was seen.
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
            title=_cut(first_text(record, "target_title", "push_data.commit_title")),
            ref=short(first_text(record, "push_data.ref")),
        ),
        seen_at=seen_at,
        payload=payload,
        payload_sha=sha,
    )


def _action(kind: str, body: dict[str, Any]) -> str | None:
    row = UNMIRRORED.get((kind, None))
    if row is not None:
        return next((found for path in row.action if (found := word(dig(body, path)))), None)
    return first_text(body, "object_attributes.action", "action", "status")


def _webhook_identity(
    kind: str, action: str | None, body: dict[str, Any], project: int | str | None, seen_at: Millis, sha: str
) -> Identity | None:
    mirrored = _BY_WEBHOOK.get((kind, action))
    if mirrored is not None:
        key = keys.webhook_key(mirrored, body, project)
        if key is not None:
            return _timed(key, mirrored.time, mirrored.precision, body) or Identity(
                key,
                seen_at,
                Precision.RECEIVED_TIME if mirrored.precision is Precision.GITLAB_TIME else mirrored.precision,
            )
    unmirrored = UNMIRRORED.get((kind, action)) or UNMIRRORED.get((kind, None))
    if unmirrored is None:
        return None
    key = keys.unmirrored_key(unmirrored, action, word(dig(body, unmirrored.id)), project, sha)
    if key is None:
        return None
    untimed = unmirrored.untimed if unmirrored.precision is Precision.GITLAB_TIME else unmirrored.precision
    return _timed(key, unmirrored.time, unmirrored.precision, body) or Identity(key, seen_at, untimed)


def _timed(key: str, paths: tuple[str, ...], precision: Precision, body: dict[str, Any]) -> Identity | None:
    """An identity at the time that the body itself tells; None where it tells none."""
    for path in paths:
        happened_at = times.stated(dig(body, path))
        if happened_at is not None:
            return Identity(key, happened_at, precision)
    return None


def _head_commit_title(body: dict[str, Any]) -> str | None:
    commits = body.get("commits")
    return first_text(commits[-1], "title", "message") if isinstance(commits, list) and commits else None


def _cut(title: str | None) -> str | None:
    if title is None:
        return None
    lines = title.strip().splitlines()
    return lines[0][:_TITLE_LENGTH] if lines else None


def _record_target(record: dict[str, Any], did: str | None) -> str | None:
    if did == "pushed":
        return "push"
    if did in ("joined", "left"):
        return "member"
    return RECORD_TARGETS.get(str(record.get("target_type")))


def record_kind(record: dict[str, Any]) -> str:
    """The webhook's kind that an Events API record would have; for one without a webhook, a word of its own."""
    target = _record_target(record, RECORD_ACTIONS.get(str(record.get("action_name"))))
    if target == "push":
        return "tag_push" if dig(record, "push_data.ref_type") == "tag" else "push"
    if target is not None:
        return target
    return _UNMATCHED.get(str(record.get("target_type")), (text(record.get("target_type")) or "project").lower())
