"""What a ledger reports to the process that runs it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from reconciler.events.sighting import Sighting
from reconciler.ledger.queue.opening import Opened
from reconciler.ledger.recording.record import Recorded


class Committed(msgspec.Struct, frozen=True):
    """Sightings that are on disk, what became of each, and how many seconds their commit took."""

    sightings: list[Sighting]
    recorded: list[Recorded]
    seconds: float


class Listener:
    """Override what you want to know. The methods are called on the event loop, after a commit.

    What they raise is logged, and does not reach the ledger.
    """

    def opened(self, deliveries: Sequence[Opened]) -> None:
        """A commit opened these deliveries."""

    def committed(self, done: Committed) -> None:
        """A commit recorded sightings."""

    def trouble(self, reason: str | None) -> None:
        """The ledger can't be written, and why; None when it can be written again."""

    def damage(self, reason: str) -> None:
        """A damaged part of the ledger's file was met. Called once."""
