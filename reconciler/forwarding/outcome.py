"""Classifies the result of an attempt: what it means for the delivery and for the destination. Writes nothing."""

from __future__ import annotations

import random

import msgspec

from reconciler.config.destinations import RetryConfig
from reconciler.events.times import MINUTE, Millis
from reconciler.forwarding.jail import TransformFailed
from reconciler.forwarding.message import ACCEPTED, Answer, excerpt
from reconciler.forwarding.retry import next_pause
from reconciler.ledger.queue.deliveries import Attempt, Queued, Settled

TOO_MANY_REQUESTS = 429


class Outcome(msgspec.Struct, frozen=True):
    """An attempt at a delivery and what follows from it.

    Delivered, unless it `is_dead_letter` (`why` says why) or there is a `pause` before the next attempt.
    """

    queued: Queued
    attempt: Attempt
    now: Millis
    """When it became known, by the steady clock."""
    is_dead_letter: bool = False
    why: str = ""
    pause: Millis | None = None
    destination_was_asked: bool = True
    destination_works: bool = True
    counts_against_destination: bool = True
    retry_after: Millis = Millis(0)
    gone: bool = False

    @property
    def settled(self) -> Settled:
        """What the ledger records."""
        return Settled(self.attempt, self.now, is_dead_letter=self.is_dead_letter, pause=self.pause)


def classify(
    retry: RetryConfig,
    queued: Queued,
    answer: Answer,
    attempt: Attempt,
    *,
    now: Millis,
    uniform: random.Random | None = None,
) -> Outcome:
    """Classify an answer. `now` is the steady clock's, and `uniform` makes the random part of a pause.

    A rejected delivery is a dead letter at once, and does not count against the destination. A destination that is
    gone keeps its pending deliveries. Anything else is retried until the retry settings are used up.
    """
    if answer is not ACCEPTED:
        attempt = msgspec.structs.replace(
            attempt,
            status=answer.status,
            error_class=answer.error_class,
            error=answer.error,
            response=answer.response,
        )
    if answer.accepted:
        return Outcome(queued, attempt, now)
    if answer.gone:
        return Outcome(queued, attempt, now, pause=MINUTE, destination_works=True, gone=True)
    if answer.rejected:
        return Outcome(queued, attempt, now, is_dead_letter=True, why="rejected by the destination")
    first = now if queued.first_attempt_at is None else queued.first_attempt_at
    pause = next_pause(retry, queued.failures + 1, age=Millis(now - first), uniform=uniform)
    # A destination that asks for a pause works: it understood the request.
    counts = not (answer.status == TOO_MANY_REQUESTS and answer.retry_after)
    if pause is None:
        return Outcome(
            queued,
            attempt,
            now,
            is_dead_letter=True,
            why="not delivered in time",
            destination_works=False,
            counts_against_destination=counts,
            retry_after=answer.retry_after,
        )
    return Outcome(
        queued,
        attempt,
        now,
        pause=max(pause, answer.retry_after),
        destination_works=False,
        counts_against_destination=counts,
        retry_after=answer.retry_after,
    )


def classify_message_error(
    retry: RetryConfig, queued: Queued, attempt: Attempt, error: Exception, *, now: Millis
) -> Outcome:
    """Classify an error that prevented the message: the destination was not asked, so this says nothing about it.

    A transform that fails for an event would fail at every attempt: a dead letter, to be replayed once the transform
    is fixed. Any other error is a bug in this program that a later version may fix, so it is retried.
    """
    if isinstance(error, TransformFailed):
        attempt = msgspec.structs.replace(attempt, error_class="transform", error=str(error))
        return Outcome(
            queued, attempt, now, is_dead_letter=True, why="the transform failed", destination_was_asked=False
        )
    answer = Answer("message", excerpt(f"the message can't be built: {type(error).__name__}: {error}"))
    return msgspec.structs.replace(classify(retry, queued, answer, attempt, now=now), destination_was_asked=False)
