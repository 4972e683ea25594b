"""Rebuilds webhook payloads for the sightings of API records."""

from __future__ import annotations

import hashlib
import traceback
from collections.abc import Callable
from typing import Any

import msgspec
import orjson
import structlog

from reconciler.events import times
from reconciler.events.sighting import Identity, Recovery, Sighting, Summary
from reconciler.events.unreadable import Unreadable
from reconciler.events.webhook_sighting import summarise
from reconciler.reconstruct import SourceData, rebuild
from reconciler.sources.checked import unreadable
from reconciler.sources.errors import SourceError

EVERYTHING = "*"
"""The only entry of a recovery's `unknown` if no body could be rebuilt: the payload is then GitLab's record."""

log = structlog.get_logger(__name__)


def to_webhook_payload(sighting: Sighting, kind: str, data: SourceData, *, gitlab_url: str) -> Sighting:
    """The sighting with a webhook payload rebuilt from the data. The API's record is kept as `raw`."""
    rebuilt = rebuild(kind, data)
    headers = _headers(gitlab_url)
    if rebuilt.hook_event is not None:
        headers["X-Gitlab-Event"] = rebuilt.hook_event
    return msgspec.structs.replace(
        sighting,
        summary=summarise(rebuilt.body, sighting.summary.project_id),
        payload=orjson.dumps(rebuilt.body).decode(),
        raw=sighting.raw or sighting.payload,
        recovery=Recovery(by="api", unknown=rebuilt.unknown),
        headers=headers,
    )


def to_webhook_payload_or_record(
    sighting: Sighting,
    kind: str,
    data: SourceData,
    *,
    gitlab_url: str,
    failed: list[Unreadable],
    name_in: str = "id",
) -> Sighting:
    """Like `to_webhook_payload`. If no body can be rebuilt, the sighting keeps the record as its payload, because the
    event is known all the same, and the record is added to `failed`.
    """
    try:
        return to_webhook_payload(sighting, kind, data, gitlab_url=gitlab_url)
    except Exception as error:  # one bad record must not affect the others
        failed.append(unreadable(data.record, name_in, explain(error)))
        log.warning("body not rebuilt", kind=kind, source=sighting.source, error=explain(error))
    recovery = Recovery(by="api", unknown=[EVERYTHING])
    return msgspec.structs.replace(sighting, recovery=recovery, headers=_headers(gitlab_url))


def listed_record(source: str, source_id: str, identity: Identity, kind: str, data: SourceData) -> Sighting:
    """The sighting of an entry of a list. Its payload is the record."""
    raw = orjson.dumps(data.record).decode()
    return Sighting(
        source=source,
        source_id=source_id,
        identity=identity,
        summary=Summary(kind=kind, project_id=data.project.get("id")),
        seen_at=times.now(),
        payload=raw,
        payload_sha=hashlib.sha256(raw.encode()).hexdigest(),
    )


def raw_record(sighting: Sighting) -> dict[str, Any]:
    """The API's record, unchanged."""
    record: dict[str, Any] = orjson.loads(sighting.raw or sighting.payload)
    return record


def with_details(sighting: Sighting, build: Callable[[Sighting], Sighting | None]) -> Sighting | None:
    """The sighting that `build` makes with details; None if there are none, or it fails.

    Raises SourceError if GitLab does not answer.
    """
    try:
        return build(sighting)
    except SourceError:
        raise
    except Exception as error:  # a missing detail must not stop the event
        log.warning("body rebuilt without details", source=sighting.source, error=explain(error))
        return None


def explain(error: Exception) -> str:
    """An unexpected error in one line, with the place where it was raised."""
    if isinstance(error, ValueError) and type(error) is ValueError:
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {str(error)[:200]}{where}"


def _headers(gitlab_url: str) -> dict[str, str]:
    return {"Content-Type": "application/json", "X-Gitlab-Instance": gitlab_url}
