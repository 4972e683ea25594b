"""A kind of destination for tests, found by entry point as those of other packages: it behaves as it is told."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Literal

from reconciler.config import destination_kinds
from reconciler.config.destinations import BatchedDestination
from reconciler.forwarding.kind import Kind
from reconciler.forwarding.message import Answer, Message


class SinkDestination(BatchedDestination):
    """No more than every destination has."""

    kind: Literal["sink"] = "sink"


class Sink(Kind):
    """Hands messages to whoever has set `behave`."""

    config = SinkDestination
    address = "nowhere"
    behave: ClassVar[Callable[[str, Message], Awaitable[Answer]]]
    behave_batch: ClassVar[Callable[[str, Sequence[Message]], Awaitable[Sequence[Answer]]]]

    def __init__(self, destination: SinkDestination) -> None:
        self._name = destination.name

    async def send(self, message: Message) -> Answer:
        return await Sink.behave(self._name, message)

    def target(self, message: Message) -> str:
        return self._name

    async def send_batch(self, messages: Sequence[Message]) -> Sequence[Answer]:
        return await Sink.behave_batch(self._name, messages)


@contextmanager
def sink_installed(folder: Path) -> Iterator[None]:
    """As if a package with this kind were installed."""
    about = folder / "sink-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: sink\nVersion: 1\n")
    (about / "entry_points.txt").write_text(f"[{destination_kinds.GROUP}]\nsink = tests.support.sink:Sink\n")
    sys.path.insert(0, str(folder))
    try:
        _forget()
        yield
    finally:
        sys.path.remove(str(folder))
        _forget()


def _forget() -> None:
    destination_kinds.find_kind.cache_clear()
    destination_kinds._known.cache_clear()
