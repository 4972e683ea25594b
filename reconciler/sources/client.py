"""Asks GitLab: python-gitlab with retries of our own.

python-gitlab's retries can't be interrupted (they sleep through a Retry-After), don't read a Retry-After that is a
date, and don't show the headers of a failed answer. So they are off, and tenacity's are used.
"""

from __future__ import annotations

import contextlib
import queue
import re
import ssl
import threading
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote

import gitlab
import requests
import structlog
import tenacity
from gitlab.exceptions import GitlabError, GitlabHttpError

from reconciler.config.models import GitLab
from reconciler.events import times
from reconciler.events.texts import certificate_advice
from reconciler.events.times import SECOND, Millis
from reconciler.sources import answers, checked
from reconciler.sources.bounded import SentElsewhere, TooLarge, TooSlow, bounded_session
from reconciler.sources.checked import Page, Read, ShapeT
from reconciler.sources.errors import (
    GitLabRefused,
    RateLimited,
    Stopped,
    TokenRefused,
    Unavailable,
    UnexpectedAnswer,
)
from reconciler.sources.rate_limit import GitLabRateLimit
from reconciler.sources.source import Project

TRIES = 6
CLOCK_WARNING = 30 * SECOND
PER_PAGE = 100
SAME_PAGES = 3
"""How many pages in a row may repeat the one before them."""
EMPTY_PAGES = 10_000
"""How many empty pages may come in a row: pages are empty if the token may not see their records."""
ERROR_CHARS = 300
"""How much of an error text from GitLab or a library is passed on."""
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0

ADVICE = {
    401: "the token is wrong, expired or revoked: check gitlab.token",
    403: "the token may not read this: it needs the read_api scope and access to the project",
    404: "not found, or not visible for this token: check the id or path, and that its user is a member",
}
SCOPE = "the token lacks the read_api scope: check gitlab.token"

_CONNECTION = re.compile(r"^\w+\(host=.*?\): ")
"""How urllib3's errors begin: with the name of a class."""

log = structlog.get_logger(__name__)


class _Transient(Exception):
    """It may work at a later try."""


class _Limited(_Transient):
    """HTTP 429: it may work once the rate limit allows."""


class Client:
    """Asks one GitLab instance. Safe to use from several threads: each request has a session to itself."""

    def __init__(self, config: GitLab, *, tries: int = TRIES) -> None:
        self._config = config
        self._tries = tries
        self._thread = threading.local()
        self._stop = threading.Event()
        self._idle: queue.LifoQueue[gitlab.Gitlab] = queue.LifoQueue()
        self.rate_limit = GitLabRateLimit(config.rate_share)
        self.behind: Millis = Millis(0)
        """How far GitLab's clock is behind this machine's, by its last answer; 0 if it is not."""
        self.requests = 0

    def stop(self) -> None:
        """Make every waiting and every later call raise Stopped, and close the connections to GitLab."""
        self._stop.set()
        self._close_idle()

    @property
    def url(self) -> str:
        """The instance's base URL, without a slash at its end."""
        return self._config.url.rstrip("/")

    def asked(self) -> int:
        """How many requests the calling thread has made."""
        count: int = getattr(self._thread, "asked", 0)
        return count

    def get(
        self, path: str, shape: type[ShapeT], query: dict[str, Any] | None = None, *, tries: int | None = None
    ) -> Read[ShapeT]:
        """Get one object.

        Like all methods that ask GitLab, raises SourceError, and UnexpectedAnswer for an answer that does not match
        its type.
        """
        return checked.read(f"GET {path}", _json(self._ask(path, query or {}, tries=tries)), shape)

    def all(
        self, path: str, shape: type[ShapeT], query: dict[str, Any] | None = None, *, tries: int | None = None
    ) -> list[Read[ShapeT]]:
        """Get every record of a list, for short lists that are useful only as a whole."""
        found: list[Read[ShapeT]] = []
        for page in self.pages(path, shape, query or {}, tries=tries):
            for bad in page.unreadable:
                raise UnexpectedAnswer(f"GET {path}", bad.error, bad.raw[: checked.EXCERPT_CHARS])
            found += page.records
        return found

    def pages(
        self, path: str, shape: type[ShapeT], query: dict[str, Any], *, tries: int | None = None
    ) -> Iterator[Page[ShapeT]]:
        """Get the pages of a list, one by one. A record that moves to the next page between requests is yielded once.

        There is a next page if `X-Next-Page` or the Link header says so; the number of records on this page
        says nothing (docs/gitlab.md, "The Events API").
        """
        number: int | None = 1
        before, yielded, same, empty = b"", set[str](), 0, 0
        while number is not None:
            response = self._ask(path, {"per_page": PER_PAGE, **query, "page": number}, tries=tries)
            page = checked.read_page(f"GET {path}", _json(response), shape)
            empty = 0 if page.records or page.unreadable else empty + 1
            same = 0 if response.content != before or empty else same + 1
            if same == SAME_PAGES or empty == EMPTY_PAGES:
                raise UnexpectedAnswer(
                    f"GET {path}", f"its pages never end: page {number} is the same as those before"
                )
            names = {record.ident for record in page.records}
            yield Page([record for record in page.records if record.ident not in yielded], page.unreadable)
            before, yielded = response.content, names
            number = _next_page(path, response, number)

    def is_alone(self, error: Unavailable) -> bool:
        """Whether only this request fails: the answer is unexpected, or GitLab answers other requests."""
        if isinstance(error, RateLimited):
            return False
        return isinstance(error, UnexpectedAnswer) or self._responds()

    def _responds(self) -> bool:
        try:
            self._ask("/version", {}, tries=1)
        except GitLabRefused:
            return True
        except Unavailable:
            return False
        return True

    def post(self, path: str, data: dict[str, Any]) -> None:
        """Create something. Retried only if GitLab certainly did not do it, so that nothing is created twice."""
        self._ask(path, {}, verb="post", data=data)

    def put(self, path: str, data: dict[str, Any]) -> None:
        """Change something."""
        self._ask(path, {}, verb="put", data=data)

    def project(self, name: int | str) -> Project:
        """Find a project by id or path."""
        found = self.get(f"/projects/{quote(str(name), safe='')}", answers.ProjectAnswer)
        return Project(found.shown.id, found.shown.path_with_namespace, found.raw)

    def _ask(
        self,
        path: str,
        query: dict[str, Any],
        *,
        verb: str = "get",
        data: dict[str, Any] | None = None,
        tries: int | None = None,
    ) -> requests.Response:
        """Ask with retries: 429 waits as GitLab asks, 5xx and no answer are retried with growing pauses."""
        tries = self._tries if tries is None else min(tries, self._tries)
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_Limited if verb == "post" else _Transient),
            stop=tenacity.stop_after_attempt(tries) | tenacity.stop_when_event_set(self._stop),
            wait=tenacity.wait_random_exponential(multiplier=FIRST_PAUSE_S, max=LONGEST_PAUSE_S),
            sleep=self._sleep,
        )
        try:
            return retrying(self._ask_once, verb, path, query, data)
        except tenacity.RetryError as error:
            self._sleep(0)  # raises Stopped if stopped meanwhile
            last = error.last_attempt.exception()
            kind = RateLimited if isinstance(last, _Limited) else Unavailable
            raise kind(f"{verb.upper()} {path}: {last} ({tries} tries)") from last
        except _Transient as error:  # not retried
            raise Unavailable(f"{verb.upper()} {path}: {error}") from error

    def _ask_once(
        self, verb: str, path: str, query: dict[str, Any], data: dict[str, Any] | None
    ) -> requests.Response:
        while (pause := self.rate_limit.take()) > 0:
            self._sleep(pause)
        self._sleep(0)  # raises Stopped if stopped meanwhile
        self.requests += 1
        self._thread.asked = self.asked() + 1
        session = self._session()
        try:
            response = session.http_request(verb, path, query_data=query, post_data=data, obey_rate_limit=False)
        except GitlabHttpError as error:
            raise self._classified(f"{verb.upper()} {path}", error) from error
        except (TooLarge, SentElsewhere) as error:  # a retry would give the same answer
            raise Unavailable(f"{verb.upper()} {path}: {error}") from None
        except (requests.RequestException, GitlabError) as error:
            status = getattr(error, "response_code", None)
            if status is not None:
                raise self._classified(f"{verb.upper()} {path}", error) from error
            raise _Transient(_no_answer(error)) from error
        finally:
            self._idle.put(session)
            if self._stop.is_set():
                self._close_idle()
        return response

    def _classified(self, request: str, error: Any) -> Exception:
        status = error.response_code
        if status == 429:
            return _Limited(f"HTTP {status}")
        if status >= 500:
            return _Transient(f"HTTP {status}")
        message = str(error.error_message)[:ERROR_CHARS]
        if status == 401 or (status == 403 and "insufficient_scope" in message):
            advice = ADVICE[401] if status == 401 else SCOPE
            return TokenRefused(status, f"{request}: HTTP {status}: {advice}", said=message)
        advice = ADVICE.get(status, message)
        return GitLabRefused(status, f"{request}: HTTP {status}: {advice}", said=message)

    def _sleep(self, seconds: float) -> None:
        if self._stop.wait(seconds) if seconds > 0 else self._stop.is_set():
            raise Stopped("stopping")

    def _session(self) -> gitlab.Gitlab:
        """An idle session, with its connection kept alive if there is one."""
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            pass
        config = self._config
        session = bounded_session(within_s=config.timeout / 1000)
        session.hooks["response"].append(self._note)
        return gitlab.Gitlab(
            config.url,
            private_token=config.token.get_secret_value() if config.token else None,
            timeout=config.timeout / 1000,
            ssl_verify=str(config.ca_file) if config.ca_file else True,
            session=session,
            retry_transient_errors=False,
        )

    def _close_idle(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._idle.get_nowait().session.close()

    def _note(self, response: requests.Response, *_: Any, **__: Any) -> None:
        self.rate_limit.note(response.status_code, response.headers)
        try:
            date = parsedate_to_datetime(response.headers["Date"])
        except (KeyError, ValueError):
            return
        # Date was written after the request was sent, and is cut to the second: with equal clocks this is 0.
        sent_at = times.now() - round(response.elapsed.total_seconds() * 1000)
        behind = max(0, sent_at - round(date.timestamp() * 1000) - SECOND)
        if behind > CLOCK_WARNING > self.behind:
            log.warning(
                "GitLab's clock is behind this machine's: check this machine's time", by_seconds=behind // 1000
            )
        self.behind = Millis(behind)


def _no_answer(error: Exception) -> str:
    """Why there is no answer, with advice if there is any."""
    if isinstance(error, TooSlow):
        return f"{error}: see gitlab.timeout"
    first: BaseException = error
    while (inner := first.__cause__ or first.__context__) is not None:
        first = inner
    if isinstance(first, OSError) and not isinstance(first, ssl.SSLError) and first.strerror:
        return f"no answer: {first.strerror}"  # the rest is about library internals
    reason = getattr(error.args[0] if error.args else None, "reason", None) or error
    text = _CONNECTION.sub("", str(reason))
    return f"no answer: {certificate_advice(text, 'gitlab.ca_file')}{text[:ERROR_CHARS]}"


def _json(response: requests.Response) -> Any:
    try:
        return checked.parse(response.content)
    except ValueError as error:
        what = f"{response.request.method} {response.url.partition('?')[0]}"
        raise UnexpectedAnswer(what, f"it is not JSON ({error}): check gitlab.url") from error


def _next_page(path: str, response: requests.Response, number: int) -> int | None:
    """The number of the next page; None if this is the last."""
    stated = response.headers.get("X-Next-Page")
    if not stated:
        return number + 1 if "next" in response.links else None
    found = int(stated) if stated.isascii() and stated.isdigit() and len(stated) < 10 else 0
    if found <= number:
        raise UnexpectedAnswer(f"GET {path}", f"its pages never end: after page {number} comes {stated[:20]!r}")
    return found
