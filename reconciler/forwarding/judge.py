"""What an answer means: for the delivery, and for what is thought of the destination."""

from __future__ import annotations

import msgspec
from sqlite_utils import Database

from reconciler.config.destinations import Retry
from reconciler.events.times import MINUTE, Millis
from reconciler.forwarding.message import Answer
from reconciler.forwarding.retry import next_pause
from reconciler.forwarding.transform import TransformFailed
from reconciler.ledger import queue
from reconciler.ledger.queue import Attempt, Outgoing, Queued

TOO_MANY_REQUESTS = 429


class Verdict(msgspec.Struct, frozen=True):
    """An attempt and what follows. Neither dead nor a pause: it was taken. `why` is said of a dead letter."""

    attempt: Attempt
    is_dead: bool = False
    why: str = ""
    pause: Millis | None = None
    destination_works: bool = True
    counts_against_destination: bool = True
    retry_after: Millis = Millis(0)
    gone: bool = False

    def write(self, db: Database) -> None:
        """Note it in the ledger, inside the open transaction."""
        if self.is_dead:
            queue.bury(db, self.attempt)
        elif self.pause is not None:
            queue.retry(db, self.attempt, next_attempt_at=Millis(self.attempt.ended_at + self.pause))
        else:
            queue.deliver(db, self.attempt)


def judge(retry: Retry, queued: Queued, answer: Answer, tried: Attempt) -> Verdict:
    """Weigh an answer.

    What was refused is dead at once, and says nothing against the destination. A destination that is gone keeps its
    events. Anything else is tried again until the retry settings say that it has been long enough.
    """
    if answer.taken:
        return Verdict(tried)
    if answer.gone:
        return Verdict(tried, pause=MINUTE, destination_works=True, gone=True)
    if answer.refused:
        return Verdict(tried, is_dead=True, why="the destination refused it")
    first = queued.first_attempt_at if queued.first_attempt_at is not None else tried.started_at
    pause = next_pause(retry, queued.failures + 1, age=Millis(tried.ended_at - first))
    # Who says "not so fast, come back in 5 s" works well, and was understood.
    counts = not (answer.status == TOO_MANY_REQUESTS and answer.retry_after)
    if pause is None:
        return Verdict(
            tried,
            is_dead=True,
            why="not taken in time",
            destination_works=False,
            counts_against_destination=counts,
            retry_after=answer.retry_after,
        )
    return Verdict(
        tried,
        pause=max(pause, answer.retry_after),
        destination_works=False,
        counts_against_destination=counts,
        retry_after=answer.retry_after,
    )


def untransformable(event: Outgoing, destination_id: int, number: int, at: Millis, error: TransformFailed) -> Verdict:
    """An event that the transform fails for would fail for ever: a dead letter, to be replayed when it is mended."""
    tried = Attempt(
        event_id=event.event_id,
        destination_id=destination_id,
        sighting_id=event.sighting_id,
        number=number,
        started_at=at,
        ended_at=at,
        error_class="transform",
        error=str(error),
    )
    return Verdict(tried, is_dead=True, why="the transform fails for it")
