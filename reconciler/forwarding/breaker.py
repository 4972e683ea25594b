"""The circuit breaker: full concurrency while a destination works, one probe at a time while it is down.

    closed ──several failures in a row──▶ open ──pause is over──▶ half open ──probe succeeds──▶ closed
                                           ▲                          │
                                           └───────probe fails────────┘   (with a longer pause)

Its state is written to the ledger together with the outcome that changed it, so that a restart keeps it.
`now` is the steady clock's time everywhere, `at` the wall clock's, for people.
"""

from __future__ import annotations

import random

import msgspec

from reconciler.config.destinations import Destination
from reconciler.events.times import Millis
from reconciler.ledger.queue.destinations import Breaker, BreakerName

NOTHING = Millis(0)


class CircuitBreaker:
    """Decides whether the next attempt may start now. `state` is what the ledger stores."""

    def __init__(self, destination: Destination, state: Breaker, *, now: Millis) -> None:
        self._settings = destination.breaker
        self._first = destination.retry.initial_delay
        self._concurrency = destination.concurrency
        self._not_before: Millis = NOTHING
        self._generation = 0
        self.in_flight = 0
        latest = Millis(now + destination.breaker.max_delay)  # later only if the wall clock was set back meanwhile
        self.state = msgspec.structs.replace(state, until=min(state.until, latest))

    @property
    def is_closed(self) -> bool:
        return self.state.state == "closed"

    @property
    def room(self) -> int:
        """How many more attempts may be in flight."""
        return max(0, (self._concurrency if self.is_closed else 1) - self.in_flight)

    def wait(self, now: Millis) -> Millis:
        """How long until an attempt may start, if a slot is free."""
        return Millis(max(0, self._not_before - now, self.state.until - now))

    def started(self) -> int:
        """Note that an attempt starts. Returns its generation, to report its outcome with."""
        self.in_flight += 1
        if self.state.state == "open":
            self._change("half_open", self.state.failures, until=NOTHING)
        return self._generation

    def succeeded(self, generation: int, *, at: Millis) -> None:
        """The destination works: it accepted the event, or rejected only this one."""
        self.in_flight -= 1
        if generation != self._generation:
            return  # sent before the breaker opened: the probe decides
        self._not_before = NOTHING
        if not self.is_closed:
            self._change("closed", 0, until=NOTHING, changed_at=at)
        elif self.state.failures:
            self._change("closed", 0, until=NOTHING)

    def failed(
        self, generation: int, *, now: Millis, at: Millis, retry_after: Millis = NOTHING, counts: bool = True
    ) -> None:
        """No answer, or one that asks to retry. With `counts` false it only asks for a pause."""
        self.in_flight -= 1
        self._not_before = max(self._not_before, Millis(now + retry_after))
        if generation != self._generation or not counts:
            if self.state.state == "half_open" and generation == self._generation:
                self._change("open", self.state.failures, until=Millis(now + retry_after))
            return
        failures = self.state.failures + 1
        if self.is_closed and failures < self._settings.failures:
            self._change("closed", failures, until=NOTHING)
            return
        self._generation += 1
        changed_at = at if self.is_closed else self.state.changed_at
        self._change("open", failures, until=Millis(now + self._pause(failures)), changed_at=changed_at)

    def not_attempted(self) -> None:
        """An attempt could not be made, which says nothing about the destination."""
        self.in_flight -= 1
        if self.state.state == "half_open":
            self._change("open", self.state.failures, until=NOTHING)

    def take_over(self, state: Breaker) -> None:
        """Take over a state that another process set: somebody resumed the destination."""
        self._generation += 1
        self._not_before = NOTHING
        self.state = state

    def _pause(self, failures: int) -> Millis:
        """Doubles with each failed probe. Its upper half is random, so that many clients do not come back at once."""
        exponent = min(failures - self._settings.failures, 40)
        longest = min(self._settings.max_delay, self._first << max(exponent, 0))
        return Millis(round(random.uniform(longest / 2, longest)))

    def _change(self, state: BreakerName, failures: int, *, until: Millis, changed_at: Millis | None = None) -> None:
        kept = self.state.changed_at if changed_at is None else changed_at
        self.state = Breaker(state, failures, until, kept)
