"""From a record to a sighting whose body has the webhook's shape."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import orjson

from reconciler.events import times
from reconciler.events.identify import summarise
from reconciler.events.sighting import Identity, Recovery, Sighting, Summary
from reconciler.reconstruct import Material, rebuild


def in_webhook_shape(sighting: Sighting, kind: str, material: Material, *, gitlab_url: str) -> Sighting:
    """The sighting with a body rebuilt from the material; what the API told is kept as `raw`."""
    rebuilt = rebuild(kind, material)
    headers = {"Content-Type": "application/json", "X-Gitlab-Instance": gitlab_url}
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


def listed_sighting(
    source: str, source_id: str, identity: Identity, kind: str, material: Material, *, gitlab_url: str
) -> Sighting:
    """A sighting of what one of GitLab's lists shows."""
    raw = orjson.dumps(material.record).decode()
    told = Sighting(
        source=source,
        source_id=source_id,
        identity=identity,
        summary=Summary(kind=kind, project_id=material.project.get("id")),
        seen_at=times.now(),
        payload=raw,
        payload_sha=hashlib.sha256(raw.encode()).hexdigest(),
    )
    return in_webhook_shape(told, kind, material, gitlab_url=gitlab_url)


def raw_record(sighting: Sighting) -> dict[str, Any]:
    """What the API told, as it came."""
    record: dict[str, Any] = orjson.loads(sighting.raw or sighting.payload)
    return record
