"""What an intake is: the receiver appends webhooks to it, and the recorder reads them in the order of their arrival.

An intake understands nothing of a webhook and looks nothing up, so that appending costs little and depends on nothing
but its own disk. `tests/reconciler/ledger/test_intake.py` holds for every implementation.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Protocol

import msgspec

from reconciler.events.times import Millis


class ReceivedWebhook(msgspec.Struct, frozen=True):
    """A webhook as it came. `hook` is the name in `receiver.hooks` that its URL ends with, `headers` those that may
    be stored, never a secret. The receiver accepts no empty body: one stands for a webhook that was here and can't be
    read any more (`lost`).
    """

    hook: str
    received_at: Millis
    headers: dict[str, str]
    body: bytes

    @property
    def is_lost(self) -> bool:
        """Whether this only stands for a webhook that can't be read any more."""
        return not self.body


def lost(near: Millis) -> ReceivedWebhook:
    """What stands for a webhook that can't be read any more. `near` is when a webhook near it was received."""
    return ReceivedWebhook("", near, {}, b"")


class StoredWebhook(msgspec.Struct, frozen=True):
    """A webhook in the intake. Positions grow in the order of arrival, and none is used twice."""

    position: int
    webhook: ReceivedWebhook


class Place(msgspec.Struct, frozen=True):
    """How far an intake was recorded: up to and with `position`. Another intake has another `intake_id`."""

    intake_id: str
    position: int


class Opening(msgspec.Struct, frozen=True):
    """A receiver has opened an intake. `after` is the last position then: what it appends comes after that."""

    id: str
    after: int


class Appender(Protocol):
    """The receiver's side."""

    waiting: int
    """How many webhooks wait for their commit."""

    @property
    def busy_since(self) -> float | None:
        """When the write that goes on was begun (monotonic time); None if none does."""

    def append(self, webhook: ReceivedWebhook) -> Awaitable[None]:
        """Append a webhook. It is on disk when this is done. Raises IntakeUnavailable."""

    def check_writable(self) -> Awaitable[None]:
        """Commit something harmless, which proves that webhooks can be appended. Raises IntakeUnavailable."""

    async def close(self) -> None:
        """Wait until everything that was submitted is on disk or has failed."""


class Reader(Protocol):
    """The recorder's side. It raises IntakeUnavailable if the intake can't be read."""

    look_s: float
    """How often to look for more without a notification."""

    @property
    def intake_id(self) -> str:
        """Another intake, whose positions begin anew, has another id."""

    def is_replaced(self) -> bool:
        """Whether another intake is in this one's place: read this one to its end, then open that one."""

    def read(self, *, after: int, limit: int) -> Sequence[StoredWebhook]:
        """The first webhooks after a position, in order. At most `limit`, and at least one if there is any.

        One that can't be read any more, because of damage, is there as one that `is_lost`.
        """

    def last_position(self) -> int:
        """The position of the last webhook that was appended, recorded or not; 0 if there was none."""

    def openings(self) -> Sequence[Opening]:
        """The openings by receivers since `openings_seen` was called, oldest first.

        In an older copy of the intake one is before what was recorded: the positions after it are used again.
        """

    def openings_seen(self) -> None:
        """The recorder knows which positions were used again."""

    def trim(self, *, through: int) -> bool:
        """Remove some of the webhooks up to and with a position. Returns whether there are more of them."""

    def give_back(self) -> bool:
        """Give some free space back to the disk. Returns whether there is more to be given back."""

    def checkpoint(self) -> None:
        """Do what appending would have to do otherwise, and has to be done now and then."""

    def close(self) -> None:
        """End reading."""
