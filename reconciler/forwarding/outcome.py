"""What an answer means: for the delivery, and for what is thought of the destination."""

from __future__ import annotations

import msgspec
from sqlite_utils import Database

from reconciler.config.destinations import RetryConfig
from reconciler.events.times import MINUTE, Millis
from reconciler.forwarding.jail import TransformFailed
from reconciler.forwarding.message import Answer, excerpt
from reconciler.forwarding.retry import next_pause
from reconciler.ledger.queue import deliveries
from reconciler.ledger.queue.deliveries import Attempt, Queued

TOO_MANY_REQUESTS = 429


class Verdict(msgspec.Struct, frozen=True):
    """An attempt and what follows. Neither dead nor a pause: it was taken. `why` is said of a dead letter."""

    attempt: Attempt
    is_dead: bool = False
    why: str = ""
    pause: Millis | None = None
    destination_was_asked: bool = True
    destination_works: bool = True
    counts_against_destination: bool = True
    retry_after: Millis = Millis(0)
    gone: bool = False

    def write(self, db: Database, *, now: Millis) -> None:
        """Note it in the ledger, inside the open transaction. `now` is the steady clock's."""
        if self.is_dead:
            deliveries.bury(db, self.attempt)
        elif self.pause is not None:
            deliveries.retry(db, self.attempt, pause=self.pause, now=now)
        else:
            deliveries.deliver(db, self.attempt)


def judge(retry: RetryConfig, queued: Queued, answer: Answer, tried: Attempt, *, now: Millis) -> Verdict:
    """Weigh an answer. `now` is the steady clock's.

    What was refused is dead at once, and says nothing against the destination. A destination that is gone keeps its
    events. Anything else is tried again until the retry settings say that it has been long enough.
    """
    tried = msgspec.structs.replace(
        tried, status=answer.status, error_class=answer.error_class, error=answer.error, response=answer.response
    )
    if answer.taken:
        return Verdict(tried)
    if answer.gone:
        return Verdict(tried, pause=MINUTE, destination_works=True, gone=True)
    if answer.refused:
        return Verdict(tried, is_dead=True, why="the destination refused it")
    first = now if queued.first_attempt_at is None else queued.first_attempt_at
    pause = next_pause(retry, queued.failures + 1, age=Millis(now - first))
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


def unwritable(retry: RetryConfig, queued: Queued, tried: Attempt, error: Exception, *, now: Millis) -> Verdict:
    """No message can be made of an event: the destination was not asked, and nothing is known of it.

    One that the transform fails for would fail for ever: a dead letter, to be replayed when it is mended. Anything
    else is a fault of ours, which the next version may not have: it is tried again like any other.
    """
    if isinstance(error, TransformFailed):
        tried = msgspec.structs.replace(tried, error_class="transform", error=str(error))
        return Verdict(tried, is_dead=True, why="the transform fails for it", destination_was_asked=False)
    answer = Answer("message", excerpt(f"no message can be made of it: {type(error).__name__}: {error}"))
    return msgspec.structs.replace(judge(retry, queued, answer, tried, now=now), destination_was_asked=False)
