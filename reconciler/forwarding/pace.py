"""How fast a destination may be sent to: at full width while it takes events, one probe at a time while not."""

from __future__ import annotations

from reconciler.config.models import Retry
from reconciler.events.times import Millis
from reconciler.forwarding.retry import backoff


class Pace:
    """Whether the next attempt may start now.

    One failure makes the destination *down*: what is in flight ends, then one probe goes out at a time, each
    with another lane, with growing pauses. One success and it is up again. The first probe follows at once,
    so that an event that alone makes trouble holds nothing else up.
    """

    def __init__(self, retry: Retry, concurrency: int) -> None:
        self._retry = retry
        self._concurrency = concurrency
        self._failures = 0
        self._round = 0
        self._not_before: Millis = 0
        self.in_flight = 0

    @property
    def down(self) -> bool:
        return self._failures > 0

    def may_start(self, now: Millis) -> bool:
        width = 1 if self.down else self._concurrency
        return self.in_flight < width and now >= self._not_before

    def wait(self, now: Millis) -> Millis:
        """How long until an attempt may start, given that a slot is free."""
        return max(0, self._not_before - now)

    def started(self) -> int:
        """An attempt starts; returns the round it belongs to."""
        self.in_flight += 1
        return self._round

    def succeeded(self) -> None:
        """The destination answered as one that works: it took an event, or refused just this one."""
        self.in_flight -= 1
        self._failures = 0
        self._not_before = 0
        self._round += 1

    def failed(self, of_round: int, *, now: Millis, retry_after: Millis) -> None:
        """No answer, or one that asks to come again. Failures of one round count once."""
        self.in_flight -= 1
        if of_round == self._round:
            self._round += 1
            self._failures += 1
            pause = backoff(self._retry, self._failures - 1) if self._failures > 1 else 0
            self._not_before = now + pause
        self._not_before = max(self._not_before, now + retry_after)
