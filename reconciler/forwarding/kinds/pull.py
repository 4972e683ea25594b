"""`kind: pull`: consumers fetch the events from the HTTP API, and acknowledge them with their next request."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, model_validator

from reconciler.config.destinations import Destination
from reconciler.config.mistakes import Misplaced
from reconciler.forwarding.kind import Kind
from reconciler.forwarding.message import Answer, Message

_OF_SENDING = ("timeout", "concurrency", "rate_limit", "retry", "breaker", "batch")
"""Keys of every kind that say how events are sent, which does not happen here."""


def _without_keys_of_sending(schema: dict[str, Any]) -> None:
    for key in _OF_SENDING:
        schema["properties"].pop(key, None)


class PullDestination(Destination):
    """Events that consumers fetch."""

    model_config = ConfigDict(json_schema_extra=_without_keys_of_sending)

    kind: Literal["pull"] = "pull"

    @property
    def is_pulled(self) -> bool:
        return True

    @model_validator(mode="before")
    @classmethod
    def _sends_nothing(cls, values: Any) -> Any:
        if isinstance(values, dict) and (found := [key for key in _OF_SENDING if key in values]):
            what = "kind pull sends nothing, its consumers fetch the events: remove this key"
            raise Misplaced(*(((key,), what, None) for key in found))
        return values


class Pull(Kind):
    """Nothing is ever sent to it."""

    config = PullDestination

    def __init__(self, destination: PullDestination) -> None:
        self._name = destination.name

    @property
    def address(self) -> str:
        return f"/api/v1/destinations/{self._name}/events"

    async def check(self) -> str:
        """There is nothing to connect to."""
        return f"consumers fetch its events: {self.address} on the admin port"

    async def send(self, message: Message) -> Answer:
        raise NotImplementedError("consumers fetch its events")
