"""Limits a destination's rate with evenly spaced events: a limit of 10/s holds in every second, not on average."""

from __future__ import annotations

from reconciler.events.times import Millis


class SendRate:
    """Computes how long to wait before the next event: not at all if there is no rate limit."""

    def __init__(self, per_second: float | None) -> None:
        self._spacing = 0.0 if per_second is None else 1000 / per_second
        self._next = 0.0

    def wait(self, now: Millis) -> Millis:
        """How long until an event may go out, in whole milliseconds, rounded up."""
        return Millis(max(0, -int((now - self._next) // 1)))

    @property
    def burst(self) -> int | None:
        """How many events may be sent at once so that no second has more than the rate allows; None: any number."""
        return max(1, int(1000 / self._spacing)) if self._spacing else None

    def take(self, now: Millis, events: int = 1) -> None:
        """Note that events are sent."""
        self._next = max(self._next, now) + self._spacing * events
