"""Limits a destination's rate with evenly spaced events: a limit of 10/s holds in every second, not on average."""

from __future__ import annotations

from reconciler.events.times import Millis


class SendRate:
    """Computes how long to wait before the next event. Without a rate: never."""

    def __init__(self, per_second: float | None) -> None:
        self._spacing = 0.0 if per_second is None else 1000 / per_second
        self._next = 0.0

    def wait(self, now: Millis) -> Millis:
        """How long until an event may go out, in whole milliseconds, rounded up."""
        return Millis(max(0, -int((now - self._next) // 1)))

    def take(self, now: Millis) -> None:
        """Note that an event is sent."""
        self._next = max(self._next, now) + self._spacing
