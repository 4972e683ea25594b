"""The event in the way: one that a destination keeps failing to accept, while others wait behind it."""

from __future__ import annotations

import msgspec

from reconciler.events import times
from reconciler.events.times import Millis
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.schema import OPEN

FAILURES = 3
"""An event is in the way after so many failed attempts."""
_LANES = 1000
"""At most so many lanes are looked at: those whose next retry is latest, after the longest pauses."""
MOST_COUNTED = 10_000

# `+ 0`: by the event, which has few attempts, and not from the destination's last attempt back.
IN_THE_WAY = f"""
    SELECT d.event_id, e.kind, coalesce(p.path, CAST(e.project_id AS TEXT)), d.attempts - d.attempts_before,
           d.first_attempt_at, d.last_error, d.lane,
           (SELECT max(a.started_at) FROM attempts a
             WHERE a.event_id = d.event_id AND a.destination_id + 0 = :destination)
      FROM (SELECT event_id FROM lanes WHERE destination_id = :destination AND due_at IS NOT NULL
             ORDER BY due_at DESC LIMIT {_LANES}) AS heads
      CROSS JOIN deliveries AS d
      JOIN events AS e ON e.id = d.event_id LEFT JOIN projects AS p ON p.id = e.project_id
     WHERE d.event_id = heads.event_id AND d.destination_id = :destination
       AND d.attempts - d.attempts_before >= {FAILURES}
       AND EXISTS (SELECT 1 FROM deliveries b WHERE b.destination_id = :destination AND b.lane = d.lane
                      AND b.event_id > d.event_id AND {OPEN.replace("state", "b.state")})
     ORDER BY d.attempts - d.attempts_before DESC, d.event_id LIMIT 1
"""
BEHIND = f"""
    SELECT count(*) FROM (SELECT 1 FROM deliveries WHERE destination_id = ? AND lane = ? AND event_id > ? AND {OPEN}
                           LIMIT {MOST_COUNTED}) AS behind
"""
_SKIP = f"""
    UPDATE deliveries SET state = 'dead', finished_at = ?,
                          last_error = 'skipped manually' || coalesce(', after: ' || last_error, '')
     WHERE event_id = ? AND destination_id = ? AND {OPEN}
"""
_TRY_NOW = """
    UPDATE destinations SET breaker = 'half_open', breaker_until = NULL, resumes = resumes + 1
     WHERE id = ? AND breaker <> 'closed'
"""


class InTheWay(msgspec.Struct, frozen=True):
    """An event that its lane waits for. `since` and `tried_at` are its first and its last attempt. `behind` is how
    many events wait behind it, at most `MOST_COUNTED`.
    """

    destination: str
    event_id: int
    kind: str
    project: str | None
    failures: int
    since: str | None
    tried_at: str | None
    error: str | None
    behind: int

    @property
    def text(self) -> str:
        """A sentence that says what is wrong and what to do."""
        where = f" in {self.project}" if self.project else ""
        since = f" since {self.since[:19].replace('T', ' ')}" if self.since else ""
        error = f" ({self.error.splitlines()[0][:100]})" if self.error else ""
        more = " or more" if self.behind == MOST_COUNTED else ""
        waits = f"{self.behind:,}{more} wait" if self.behind > 1 else "another waits"
        tried = f"tried {self.failures} times{since}{error}"
        return (
            f"event {self.event_id} ({self.kind}{where}) blocks its lane: {tried}, and {waits} behind it; "
            f"`destinations skip {self.destination} {self.event_id}` makes it a dead letter"
        )


def in_the_way(db: Database, destination_id: int, name: str) -> InTheWay | None:
    """The event of a destination with the most failures while others wait behind it; None if there is none."""
    row = db.execute(IN_THE_WAY, {"destination": destination_id}).fetchone()
    if row is None:
        return None
    event_id, kind, project, failures, since, error, lane, tried_at = row
    (behind,) = db.execute(BEHIND, (destination_id, lane, event_id)).fetchone()
    return InTheWay(name, event_id, kind, project, failures, since, tried_at, error, behind)


def skip(db: Database, destination_id: int, event_id: int, *, now: Millis) -> bool:
    """Make a pending delivery a dead letter, and try those behind it at once. False if it is not pending."""
    if not db.execute(_SKIP, (times.iso(now), event_id, destination_id)).rowcount:
        return False
    db.execute(_TRY_NOW, (destination_id,))
    return True
