"""From a record to a sighting whose body has the webhook's shape."""

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
from reconciler.events.webhook_sighting import summarise
from reconciler.ledger.coverage.unreadable import Unreadable
from reconciler.reconstruct import SourceData, rebuild
from reconciler.sources.checked import unreadable
from reconciler.sources.errors import SourceError

EVERYTHING = "*"
"""Stands in a recovery's `unknown` where no body could be built at all: the payload is GitLab's record."""

log = structlog.get_logger(__name__)


def to_webhook_payload(sighting: Sighting, kind: str, data: SourceData, *, gitlab_url: str) -> Sighting:
    """The sighting with a body rebuilt from the data; what the API told is kept as `raw`."""
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
    """As `to_webhook_payload`; where no body can be built, the sighting with the record as it came, and the record is
    added to `failed`: that it happened is known all the same.
    """
    try:
        return to_webhook_payload(sighting, kind, data, gitlab_url=gitlab_url)
    except Exception as error:  # whatever is in a record, it must not cost the others
        failed.append(unreadable(data.record, name_in, explain(error)))
        log.warning("body not rebuilt", kind=kind, source=sighting.source, error=explain(error))
    recovery = Recovery(by="api", unknown=[EVERYTHING])
    return msgspec.structs.replace(sighting, recovery=recovery, headers=_headers(gitlab_url))


def listed_sighting(
    source: str,
    source_id: str,
    identity: Identity,
    kind: str,
    data: SourceData,
    *,
    gitlab_url: str,
    failed: list[Unreadable],
    name_in: str,
) -> Sighting:
    """A sighting of what one of GitLab's lists shows. Otherwise as `to_webhook_payload_or_record`."""
    raw = orjson.dumps(data.record).decode()
    sighting = Sighting(
        source=source,
        source_id=source_id,
        identity=identity,
        summary=Summary(kind=kind, project_id=data.project.get("id")),
        seen_at=times.now(),
        payload=raw,
        payload_sha=hashlib.sha256(raw.encode()).hexdigest(),
    )
    return to_webhook_payload_or_record(sighting, kind, data, gitlab_url=gitlab_url, failed=failed, name_in=name_in)


def raw_record(sighting: Sighting) -> dict[str, Any]:
    """What the API told, as it came."""
    record: dict[str, Any] = orjson.loads(sighting.raw or sighting.payload)
    return record


def whole(sighting: Sighting, complete: Callable[[Sighting], Sighting]) -> Sighting:
    """A sighting with what its body lacked; as it was, where that can't be put together.

    Raises SourceError where GitLab does not answer.
    """
    try:
        return complete(sighting)
    except SourceError:
        raise
    except Exception as error:  # a detail can't stop what it was to decorate
        log.warning("body rebuilt without details", source=sighting.source, error=explain(error))
        return sighting


def explain(error: Exception) -> str:
    """An error that nobody foresaw, in one line, and where it was raised."""
    if isinstance(error, ValueError) and type(error) is ValueError:
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {str(error)[:200]}{where}"


def _headers(gitlab_url: str) -> dict[str, str]:
    return {"Content-Type": "application/json", "X-Gitlab-Instance": gitlab_url}
