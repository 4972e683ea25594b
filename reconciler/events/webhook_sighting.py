"""Makes a sighting from a webhook's body, by the tables of kinds."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

import msgspec

from reconciler.events import keys, times
from reconciler.events.fields import LONGEST_NAME, dig, first_line, first_number, first_text, short, word
from reconciler.events.fingerprint import fingerprint
from reconciler.events.kinds import MIRRORED, UNMIRRORED, Mirrored
from reconciler.events.sighting import HOOK_TEST, Identity, Precision, Sighting, Summary
from reconciler.events.times import Millis
from reconciler.events.webhooks import kind_of, object_of, project_path_of, webhook_of

_BY_WEBHOOK: dict[tuple[str, str | None], Mirrored] = {
    (row.kind, action): row for row in MIRRORED for action in row.actions
}


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
    """Make the sighting of one webhook.

    `source_id` is the `Idempotency-Key` (GitLab 17.4 and newer). Without one, the webhook is identified by its
    `X-Gitlab-Event-UUID` together with a hash of its body. The UUID alone is not enough: webhooks of one chain
    share it (docs/gitlab.md, "Webhook deliveries"). `project_ids` has the ids of projects that a body names only by
    path.
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
    """The sighting of a test that we asked for. It is recorded so that the hook log does not bring it again."""
    identity = Identity(
        f"{HOOK_TEST}:{sighting.source}:{sighting.source_id}", sighting.seen_at, Precision.RECEIVED_REPEATABLE
    )
    summary = msgspec.structs.replace(sighting.summary, kind=HOOK_TEST)
    return msgspec.structs.replace(sighting, identity=identity, summary=summary)


def summarise(body: dict[str, Any], project_id: int | None, project_path: str | None = None) -> Summary:
    """The summary of a webhook payload, received or rebuilt."""
    kind = kind_of(body)
    places = webhook_of(kind)
    return Summary(
        kind=kind[:LONGEST_NAME],
        action=short(_action(kind, body)),
        project_id=project_id,
        project_path=short(project_path or project_path_of(kind, body, None)),
        author=short(first_text(body, *places.author)),
        title=first_line(first_text(body, *places.title) or _head_commit_title(body)),
        ref=short(first_text(body, *places.ref)),
        object=short(object_of(kind, body)),
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
    """An identity with the time that the body states; None if it states none."""
    for path in paths:
        happened_at = times.stated(dig(body, path))
        if happened_at is not None:
            return Identity(key, happened_at, precision)
    return None


def _head_commit_title(body: dict[str, Any]) -> str | None:
    commits = body.get("commits")
    return first_text(commits[-1], "title", "message") if isinstance(commits, list) and commits else None
