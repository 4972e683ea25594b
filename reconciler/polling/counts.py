"""Counts of what reading found."""

from __future__ import annotations

import msgspec


class Counts(msgspec.Struct):
    """`seen` and `known` count sightings, `new` counts events, `requests` counts requests to GitLab, and `unreadable`
    counts records that could not be understood.
    """

    seen: int = 0
    known: int = 0
    new: int = 0
    requests: int = 0
    unreadable: int = 0
    error: str | None = None

    def plus(self, other: Counts) -> Counts:
        """The sum of both."""
        return Counts(
            seen=self.seen + other.seen,
            known=self.known + other.known,
            new=self.new + other.new,
            requests=self.requests + other.requests,
            unreadable=self.unreadable + other.unreadable,
            error=self.error or other.error,
        )
