"""What can go wrong when GitLab is asked."""

from __future__ import annotations

from reconciler.events.texts import without_credentials
from reconciler.ledger.coverage.source_state import OFF


class SourceError(Exception):
    """GitLab can't be read. The message says why and, where a person can help, what to do."""

    trouble = "unavailable"
    """The kind of trouble, in a word that `gaps` shows."""

    def __init__(self, message: str = "") -> None:
        super().__init__(without_credentials(message))


class GitLabRefused(SourceError):
    """GitLab said no (401, 403, 404 and the like): asking again will not help."""

    trouble = "refused"

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class SwitchedOff(GitLabRefused):
    """What a source reads is switched off in the project: nothing happens there, so that nothing is missed."""

    trouble = OFF


class TokenRefused(GitLabRefused):
    """GitLab does not take the token (401), or it lacks the scope (403): nothing can be read with it."""

    trouble = "token refused"


class Unavailable(SourceError):
    """GitLab did not answer, or not sensibly, and did not after several tries either."""


class RateLimited(Unavailable):
    """GitLab's rate limit did not let us through, again and again."""

    trouble = "rate limit"


class UnexpectedAnswer(Unavailable):
    """What GitLab answered is not what it should be: of another shape, no JSON, pages without end.

    `what` was asked, `why` says what is wrong with the answer, in a few words.
    """

    trouble = "unexpected answer"

    def __init__(self, what: str, why: str, begins: str | None = None) -> None:
        shown = "" if begins is None else f"; it begins with {begins}"
        super().__init__(f"{what}: the answer is not what GitLab should say: {why}{shown}")
        self.why = why


class NoHook(SourceError):
    """The project has no webhook that delivers here, so that there is no log of it to read."""

    trouble = "no webhook"


class Stopped(SourceError):
    """The program is stopping: nothing more is asked."""
