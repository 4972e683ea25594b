"""Which of a destination's lanes are next.

Only the names of lanes are read ahead. What is sent is read when it is the lane's turn: another process may have
changed the ledger since.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from reconciler.events.times import SECOND, Millis
from reconciler.ledger.queue.operations import QueueOperations

AHEAD = 64
"""How many lanes are read at once."""
AHEAD_FOR = Millis(100)
"""How long the lanes that were read ahead are used, so that one that becomes due does not wait for long."""
LOOK = Millis(5 * SECOND)
"""How often the ledger is read even without a notification, so that a missed one delays no delivery for longer."""


class DueLanes:
    """Hands out the lanes that are due, in the order of their turns. A lane is busy from then until it is freed."""

    def __init__(self, queue: QueueOperations, destination_id: int) -> None:
        self._queue = queue
        self._destination_id = destination_id
        self._busy: set[str] = set()
        self._ahead: deque[str] = deque()
        self._read_at = Millis(0)
        self._none_until = Millis(0)
        """Until when no lane is due, unless one is freed or a delivery is opened."""
        self.is_fresh = False
        """Whether the last call of `next` read the lanes from the ledger."""

    def next(self, count: int, now: Millis, *, all_due: bool = False) -> list[str]:
        """Up to `count` lanes that are due and not busy; with `all_due`, fewer only if there are no more."""
        self.is_fresh = False
        if now < self._none_until:
            return []
        if not self._ahead or now - self._read_at > AHEAD_FOR or (all_due and len(self._ahead) < count):
            self._read(max(AHEAD, count), now)
        if not self._ahead:
            self._none_until = Millis(now + self.next_due_in(now))
        return [self._ahead.popleft() for _ in range(min(count, len(self._ahead)))]

    def pause(self, now: Millis) -> Millis:
        """How long until a lane may be due, if none is due now."""
        return Millis(max(0, self._none_until - now))

    def next_due_in(self, now: Millis) -> Millis:
        """How long until another lane becomes due, or until the ledger is read again."""
        due = self._queue.next_due(self._destination_id, after=now)
        return LOOK if due is None else Millis(min(due - now, LOOK))

    def put_back(self, lanes: Iterable[str]) -> None:
        """These lanes were not used: they are next again."""
        self._ahead.extendleft(reversed(list(lanes)))

    def occupy(self, lanes: Iterable[str]) -> None:
        """Don't hand out these lanes until they are freed."""
        self._busy.update(lanes)

    def free(self, lanes: Iterable[str]) -> None:
        """These lanes may be handed out again."""
        self._busy.difference_update(lanes)
        self._none_until = Millis(0)

    def opened(self) -> None:
        """A delivery was opened."""
        self._none_until = Millis(0)

    def forget(self) -> None:
        """The ledger may have changed in any way."""
        self._ahead.clear()
        self._none_until = Millis(0)

    def _read(self, count: int, now: Millis) -> None:
        lanes = self._queue.due_lanes(self._destination_id, now=now, limit=count + len(self._busy))
        self._ahead = deque(lane for lane in lanes if lane not in self._busy)
        self._read_at, self.is_fresh = now, True
