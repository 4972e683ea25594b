"""What can go wrong when GitLab is asked."""

from __future__ import annotations


class SourceError(Exception):
    """GitLab can't be read. The message says why and, where a person can help, what to do."""


class Refused(SourceError):
    """GitLab said no (401, 403, 404 and the like): asking again will not help."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Unavailable(SourceError):
    """GitLab did not answer, or not sensibly, and did not after several tries either."""


class Stopped(SourceError):
    """The program is stopping: nothing more is asked."""
