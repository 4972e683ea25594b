"""The way to GitLab: python-gitlab with our own patience.

python-gitlab's own waiting can't be interrupted (it sleeps through a Retry-After), does not read a Retry-After
that is a date, and tells nothing of the headers of a failed answer; so its retries are off and tenacity's are
used.
"""

from __future__ import annotations

import queue
import threading
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote

import gitlab
import msgspec
import orjson
import requests
import structlog
import tenacity
from gitlab.exceptions import GitlabError, GitlabHttpError

from reconciler.config.models import GitLab
from reconciler.events import times
from reconciler.events.times import SECOND, Millis
from reconciler.sources.errors import RateLimited, Refused, Stopped, TokenRefused, Unavailable
from reconciler.sources.ratelimit import RateLimit
from reconciler.sources.source import Project

TRIES = 6
CLOCK_WARNING = 30 * SECOND
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0

ADVICE = {
    401: "the token is wrong, expired or revoked: check gitlab.token",
    403: "the token may not read this: it needs the read_api scope and access to the project",
    404: "not found, or not visible for this token: check the id or path, and that its user is a member",
}
SCOPE = "the token lacks the read_api scope: check gitlab.token"

log = structlog.get_logger(__name__)


class _Transient(Exception):
    """Worth another try."""


class _Limited(_Transient):
    """Worth another try when the rate limit lets us: HTTP 429."""


class Page(msgspec.Struct, frozen=True):
    """One page of a list: its records, and the number of the next page if there is one."""

    records: list[Any]
    next_page: str | None


class Client:
    """Asks one GitLab instance. Safe to use from several threads: each request has a session to itself."""

    def __init__(self, config: GitLab, *, tries: int = TRIES) -> None:
        self._config = config
        self._tries = tries
        self._thread = threading.local()
        self._stop = threading.Event()
        self._idle: queue.LifoQueue[gitlab.Gitlab] = queue.LifoQueue()
        self.rate_limit = RateLimit(config.rate_share)
        self.behind: Millis = Millis(0)
        """How far GitLab's clock is behind ours, going by its last answer; 0 where it is not."""
        self.requests = 0

    def stop(self) -> None:
        """Make every call that waits or is made from now on raise Stopped."""
        self._stop.set()

    @property
    def url(self) -> str:
        """The instance's base URL, without a slash at its end."""
        return self._config.url.rstrip("/")

    def asked(self) -> int:
        """How many requests the calling thread has made."""
        count: int = getattr(self._thread, "asked", 0)
        return count

    def get(self, path: str, query: dict[str, Any] | None = None) -> Any:
        """One object."""
        return _json(self._ask(path, query or {}))

    def all(self, path: str, query: dict[str, Any] | None = None) -> list[Any]:
        """Every record of a list, page after page: only for lists that are short."""
        found: list[Any] = []
        number: str | None = "1"
        while number is not None:
            page = self.page(path, {"per_page": 100, **(query or {}), "page": number})
            found += page.records
            number = page.next_page
        return found

    def post(self, path: str, data: dict[str, Any]) -> Any:
        """Make something. Tried again only where GitLab surely did not do it: what is made twice stays twice."""
        return _json(self._ask(path, {}, verb="post", data=data))

    def put(self, path: str, data: dict[str, Any]) -> Any:
        """Change something."""
        return _json(self._ask(path, {}, verb="put", data=data))

    def page(self, path: str, query: dict[str, Any]) -> Page:
        """One page of a list.

        There is a next page where `X-Next-Page` or the Link header says so; how many records this page holds
        says nothing (gitlab-facts, section 3).
        """
        response = self._ask(path, query)
        records = _json(response)
        if not isinstance(records, list):
            raise Unavailable(f"GET {path}: expected a list, got {type(records).__name__}")
        next_page = response.headers.get("X-Next-Page") or None
        if next_page is None and "next" in response.links:
            next_page = str(int(query.get("page", 1)) + 1)
        return Page(records, next_page)

    def project(self, name: int | str) -> Project:
        """Find a project by id or path."""
        found = self.get(f"/projects/{quote(str(name), safe='')}")
        return Project(int(found["id"]), str(found["path_with_namespace"]), found)

    def _ask(
        self, path: str, query: dict[str, Any], *, verb: str = "get", data: dict[str, Any] | None = None
    ) -> requests.Response:
        """Ask with patience: 429 waits as told, 5xx and silence are tried again with growing pauses."""
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_Limited if verb == "post" else _Transient),
            stop=tenacity.stop_after_attempt(self._tries) | tenacity.stop_when_event_set(self._stop),
            wait=tenacity.wait_random_exponential(multiplier=FIRST_PAUSE_S, max=LONGEST_PAUSE_S),
            sleep=self._sleep,
        )
        try:
            return retrying(self._ask_once, verb, path, query, data)
        except tenacity.RetryError as error:
            self._sleep(0)  # stopped meanwhile?
            last = error.last_attempt.exception()
            kind = RateLimited if isinstance(last, _Limited) else Unavailable
            raise kind(f"{verb.upper()} {path}: {last} ({self._tries} tries)") from last
        except _Transient as error:  # not tried again
            raise Unavailable(f"{verb.upper()} {path}: {error}") from error

    def _ask_once(
        self, verb: str, path: str, query: dict[str, Any], data: dict[str, Any] | None
    ) -> requests.Response:
        while (pause := self.rate_limit.take()) > 0:
            self._sleep(pause)
        self._sleep(0)  # stopped meanwhile?
        self.requests += 1
        self._thread.asked = self.asked() + 1
        session = self._session()
        try:
            response = session.http_request(verb, path, query_data=query, post_data=data, obey_rate_limit=False)
        except GitlabHttpError as error:
            raise self._judged(f"{verb.upper()} {path}", error) from error
        except (requests.RequestException, GitlabError) as error:
            status = getattr(error, "response_code", None)
            if status is not None:
                raise self._judged(f"{verb.upper()} {path}", error) from error
            raise _Transient(f"no answer: {error}") from error
        finally:
            self._idle.put(session)
        return response

    def _judged(self, request: str, error: Any) -> Exception:
        status = error.response_code
        if status == 429:
            return _Limited(f"HTTP {status}")
        if status >= 500:
            return _Transient(f"HTTP {status}")
        message = str(error.error_message)
        if status == 401 or (status == 403 and "insufficient_scope" in message):
            return TokenRefused(status, f"{request}: HTTP {status}: {ADVICE[401] if status == 401 else SCOPE}")
        advice = ADVICE.get(status, message)
        return Refused(status, f"{request}: HTTP {status}: {advice}")

    def _sleep(self, seconds: float) -> None:
        if self._stop.wait(seconds) if seconds > 0 else self._stop.is_set():
            raise Stopped("stopping")

    def _session(self) -> gitlab.Gitlab:
        """A session that nobody uses, with its connection kept alive if there is one."""
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            pass
        config = self._config
        session = requests.Session()
        session.hooks["response"].append(self._note)
        return gitlab.Gitlab(
            config.url,
            private_token=config.token.get_secret_value() if config.token else None,
            timeout=config.timeout / 1000,
            ssl_verify=str(config.ca_file) if config.ca_file else True,
            session=session,
            retry_transient_errors=False,
        )

    def _note(self, response: requests.Response, *_: Any, **__: Any) -> None:
        self.rate_limit.note(response.status_code, response.headers)
        try:
            date = parsedate_to_datetime(response.headers["Date"])
        except (KeyError, ValueError):
            return
        # Date was written after the request was sent, and is cut to the second: with like clocks this is 0.
        sent_at = times.now() - round(response.elapsed.total_seconds() * 1000)
        behind = max(0, sent_at - round(date.timestamp() * 1000) - SECOND)
        if behind > CLOCK_WARNING > self.behind:
            log.warning("GitLab's clock is behind ours: is this machine's time right?", by_seconds=behind // 1000)
        self.behind = Millis(behind)


def _json(response: requests.Response) -> Any:
    try:
        return orjson.loads(response.content)
    except orjson.JSONDecodeError as error:
        raise Unavailable(f"GET {response.url}: the answer is no JSON: is gitlab.url right?") from error
