"""An event as it would be sent to a destination, for those who show it."""

from __future__ import annotations

from typing import Any

import msgspec

from reconciler.config.destination_kinds import find_kind
from reconciler.config.destinations import Destination
from reconciler.config.models import Config
from reconciler.events import times
from reconciler.forwarding.formats import Formatter
from reconciler.forwarding.jail import TransformFailed
from reconciler.forwarding.kind import Kind
from reconciler.forwarding.kinds.http import Http
from reconciler.forwarding.message import DeliveryRejected, Message
from reconciler.ledger.queue.deliveries import Outgoing
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.ids import event_ids


class Rendered(msgspec.Struct, frozen=True):
    """Headers and body, or the error. Configured headers may be secrets and are redacted."""

    to: str
    headers: dict[str, str]
    body: str
    error: str | None = None

    def plain(self) -> dict[str, Any]:
        """As JSON prints it."""
        return msgspec.structs.asdict(self)


class Renderer:
    """Renders events, for as long as its context lasts."""

    def __init__(self, db: Database, config: Config) -> None:
        self._event_id = event_ids(db)
        self._gitlab_url = config.gitlab.url
        self._formatters: dict[str, Formatter] = {}

    def __enter__(self) -> Renderer:
        return self

    def __exit__(self, *_: object) -> None:
        for formatter in self._formatters.values():
            formatter.close()

    def render(self, destination: Destination, event: Outgoing, *, attempt: int) -> Rendered:
        """What would be sent."""
        kind = find_kind(destination.kind)(destination)
        try:
            message = self._formatter(destination).message(event, attempt=attempt, now=times.now())
        except TransformFailed as error:
            return Rendered(kind.address, {}, "", str(error))
        return rendered(kind, message)

    def _formatter(self, destination: Destination) -> Formatter:
        if destination.name not in self._formatters:
            made = Formatter(destination, event_id=self._event_id, gitlab_url=self._gitlab_url)
            self._formatters[destination.name] = made
        return self._formatters[destination.name]


def rendered(kind: Kind, message: Message) -> Rendered:
    """A message as it is sent."""
    headers = dict(message.headers)
    if isinstance(kind, Http):
        try:
            message = kind.as_sent(message)
        except DeliveryRejected as error:
            return Rendered(kind.address, {}, "", str(error))
        headers = message.headers | dict.fromkeys(kind.secret_headers, "…")
    return Rendered(kind.address, headers, message.body.decode("utf-8", "replace"))
