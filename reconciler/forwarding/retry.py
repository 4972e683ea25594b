"""When to try again: exponential backoff with full jitter, and what the destination itself asked for."""

from __future__ import annotations

import random

from reconciler.config.destinations import RetryConfig
from reconciler.events import times
from reconciler.events.times import DAY, Millis

RETRIED_4XX = frozenset({408, 425, 429})
"""Request Timeout, Too Early, Too Many Requests: the event is not at fault."""

GONE = 410
"""The destination wants no events any more (Standard Webhooks: "disable the endpoint"): it is paused, nothing is
thrown away."""

SCHEDULE_JITTER = 0.1

LONGEST_RETRY_AFTER = DAY
"""A destination that asks for more is asked again after a day."""


def backoff(retry: RetryConfig, failures: int, *, uniform: random.Random | None = None) -> Millis:
    """A pause after `failures` failures in a row: anything from nothing to `first * 2^(failures-1)`, capped.

    Full jitter spreads clients best (AWS Architecture Blog, "Exponential Backoff And Jitter").
    """
    exponent = min(max(failures, 1) - 1, 40)
    ceiling = min(retry.max_delay, retry.initial_delay * (1 << exponent))
    return Millis(round((uniform or random).uniform(0, ceiling)))


def retry_after(value: str | None, *, now: Millis) -> Millis:
    """A Retry-After header as a pause that we keep to; nothing where there is none."""
    return min(times.retry_after(value, now=now) or Millis(0), LONGEST_RETRY_AFTER)


def is_refusal(status: int, retry: RetryConfig) -> bool:
    """Whether an answer says that this event will never be taken: a dead letter at once."""
    return 400 <= status < 500 and status not in (*RETRIED_4XX, GONE) and retry.dead_on_4xx


def next_pause(
    retry: RetryConfig, failures: int, *, age: Millis, uniform: random.Random | None = None
) -> Millis | None:
    """How long to wait after so many failures, the first of which was `age` ago; None: not again.

    A schedule's pauses are taken as they are, give or take a tenth, so that a crowd does not come back at once.
    """
    if retry.schedule is None:
        return backoff(retry, failures, uniform=uniform) if age < retry.max_age else None
    if failures > len(retry.schedule):
        return None
    jitter = (uniform or random).uniform(-SCHEDULE_JITTER, SCHEDULE_JITTER)
    return Millis(round(retry.schedule[failures - 1] * (1 + jitter)))


def longest_pause(retry: RetryConfig) -> Millis:
    """The longest pause that the settings alone make."""
    if retry.schedule is None:
        return retry.max_delay
    return Millis(round(max(retry.schedule) * (1 + SCHEDULE_JITTER)))
