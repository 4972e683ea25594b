"""Errors of requests to GitLab."""

from __future__ import annotations

from reconciler.events.texts import without_credentials
from reconciler.events.troubles import NO_WEBHOOK, SWITCHED_OFF


class SourceError(Exception):
    """GitLab can't be read. The message says why and, if possible, what to do."""

    trouble = "unavailable"
    """The kind of error, as `gaps` shows it."""

    def __init__(self, message: str = "") -> None:
        super().__init__(without_credentials(message))


class GitLabRefused(SourceError):
    """GitLab refused the request (401, 403, 404 and the like): a retry will not help."""

    trouble = "refused"

    def __init__(self, status: int, message: str, *, said: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.said = said
        """What stood in the answer."""


class SwitchedOff(GitLabRefused):
    """The feature that a source reads is switched off in the project, so nothing is missed."""

    trouble = SWITCHED_OFF


class TokenRefused(GitLabRefused):
    """GitLab rejects the token (401), or it lacks the scope (403): it can read nothing."""

    trouble = "token refused"


class Unavailable(SourceError):
    """GitLab did not answer usefully, even after several retries."""


class RateLimited(Unavailable):
    """GitLab's rate limit rejected the request and all its retries."""

    trouble = "rate limit"


class UnexpectedAnswer(Unavailable):
    """GitLab's answer is not as documented: of another type, not JSON, or with endless pages.

    `what` is the request, `why` says in a few words what is wrong with the answer.
    """

    trouble = "unexpected answer"

    def __init__(self, what: str, why: str, begins: str | None = None) -> None:
        shown = "" if begins is None else f"; it begins with {begins}"
        super().__init__(f"{what}: unexpected answer: {why}{shown}")
        self.why = why


class NoHook(SourceError):
    """The project has no webhook that delivers to this receiver, so there is no hook log to read."""

    trouble = NO_WEBHOOK


class Stopped(SourceError):
    """The program is stopping and makes no more requests."""
