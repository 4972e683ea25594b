"""Decides when to retry: exponential backoff with full jitter, and the pause that the destination asked for."""

from __future__ import annotations

import random

from reconciler.config.destinations import RetryConfig
from reconciler.events import times
from reconciler.events.times import DAY, Millis

RETRIED_4XX = frozenset({408, 425, 429})
"""Request Timeout, Too Early, Too Many Requests: not the event's fault, so it is retried."""

GONE = 410
"""The destination wants no more events (Standard Webhooks: "disable the endpoint"): it is paused, and its deliveries
are kept."""

SCHEDULE_JITTER = 0.1

LONGEST_RETRY_AFTER = DAY
"""A destination that asks for a longer pause is retried after a day."""


def backoff(retry: RetryConfig, failures: int, *, uniform: random.Random | None = None) -> Millis:
    """The pause after `failures` failures in a row: a random time from 0 to `first * 2^(failures-1)`, capped.

    Full jitter spreads clients best (AWS Architecture Blog, "Exponential Backoff And Jitter").
    """
    exponent = min(max(failures, 1) - 1, 40)
    ceiling = min(retry.max_delay, retry.initial_delay * (1 << exponent))
    return Millis(round((uniform or random).uniform(0, ceiling)))


def retry_after(value: str | None, *, now: Millis) -> Millis:
    """The pause that a Retry-After header asks for, at most a day; 0 if there is none."""
    return min(times.retry_after(value, now=now) or Millis(0), LONGEST_RETRY_AFTER)


def is_rejection(status: int, retry: RetryConfig) -> bool:
    """Whether a status means that this event will never be accepted: a dead letter at once."""
    return 400 <= status < 500 and status not in (*RETRIED_4XX, GONE) and retry.dead_letter_on_4xx


def next_pause(
    retry: RetryConfig, failures: int, *, age: Millis, uniform: random.Random | None = None
) -> Millis | None:
    """The pause after `failures` failures, the first of which was `age` ago; None if there is no further retry.

    The pauses of a schedule are varied by up to 10 %, so that many clients do not come back at once.
    """
    if retry.schedule is None:
        return backoff(retry, failures, uniform=uniform) if age < retry.max_age else None
    if failures > len(retry.schedule):
        return None
    jitter = (uniform or random).uniform(-SCHEDULE_JITTER, SCHEDULE_JITTER)
    return Millis(round(retry.schedule[failures - 1] * (1 + jitter)))


def longest_pause(retry: RetryConfig) -> Millis:
    """The longest pause that the settings can give, without a Retry-After."""
    if retry.schedule is None:
        return retry.max_delay
    return Millis(round(max(retry.schedule) * (1 + SCHEDULE_JITTER)))
