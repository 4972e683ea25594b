"""Our webhooks in GitLab: finds them, sets them up, tests them, and resends deliveries of their log.

`GET|POST /projects/:id/hooks`, `PUT /projects/:id/hooks/:hook_id`, `POST .../test/:trigger`,
`POST .../events/:event_id/resend`: all need a Maintainer's token; changes need the `api` scope.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import msgspec

from reconciler.config.models import Receiver
from reconciler.events import hook_tests
from reconciler.events.times import MINUTE, Millis
from reconciler.sources import answers, checked
from reconciler.sources.checked import Page, Read
from reconciler.sources.client import Client
from reconciler.sources.errors import SourceError
from reconciler.sources.source import place

PATH = "/webhooks/gitlab"
"""The receiver's path for webhooks. Each hook has a path below it."""
LOG_PAGE = 20
"""The most records that a page of the hook log has (`lib/api/hooks/events.rb`)."""
REMEMBERED = Millis(5 * MINUTE)
"""How long a project's hooks are cached."""


class Hook(msgspec.Struct, frozen=True):
    """A webhook of a project, or of a group (with a negative id), that delivers to this receiver. `name` is its entry
    in `receiver.hooks`.
    """

    project_id: int
    id: int
    name: str
    url: str
    triggers: frozenset[str]
    alert_status: str | None
    disabled_until: str | None
    shown: dict[str, Any]

    @property
    def is_disabled(self) -> bool:
        """Whether GitLab has disabled it, temporarily or permanently."""
        return self.alert_status in ("temporarily_disabled", "disabled")


class Hooks:
    """Projects' webhooks, read from GitLab and cached for a few minutes. Safe to use from several threads."""

    def __init__(self, client: Client, receiver: Receiver) -> None:
        self._client = client
        self.entries = receiver.hooks
        self._names = {hook.name for hook in receiver.hooks}
        self._base = receiver.url.rstrip("/") if receiver.url else None
        self._lock = threading.Lock()
        self._known: dict[int, tuple[float, list[Hook] | SourceError]] = {}

    def of(self, project_id: int, *, fresh: bool = False) -> list[Hook]:
        """A project's webhooks that deliver to this receiver.

        Raises SourceError if GitLab does not show them (only Maintainers may see them).
        """
        with self._lock:
            known = self._known.get(project_id)
        if known is None or fresh or time.monotonic() - known[0] > REMEMBERED / 1000:
            known = (time.monotonic(), self._ask(project_id))
            with self._lock:
                self._known[project_id] = known
        if isinstance(known[1], SourceError):
            raise known[1]
        return known[1]

    def forget(self, project_id: int) -> None:
        """Drop a project's hooks from the cache: they were changed."""
        with self._lock:
            self._known.pop(project_id, None)

    def url_of(self, name: str) -> str | None:
        """The URL of an entry of `receiver.hooks`; None without `receiver.url`."""
        return None if self._base is None else f"{self._base}{PATH}/{name}"

    def name_of(self, url: str) -> str | None:
        """The entry of `receiver.hooks` that a webhook's URL delivers to; None if it is not one of ours.

        Without `receiver.url` only the path is compared.
        """
        try:
            parts = urlsplit(url)
        except ValueError:  # not one of ours
            return None
        path = parts.path.rstrip("/")
        if self._base is not None:
            own = urlsplit(self._base)
            if parts[:2] != own[:2] or not path.startswith(own.path + PATH):
                return None
        _, found, rest = path.rpartition(PATH)
        name = rest.strip("/") or "default"
        return name if found and name in self._names else None

    def log(self, hook: Hook) -> Iterator[Page[answers.Logged]]:
        """The hook's deliveries of the last 7 days, newest first, page by page (GitLab 17.3 and newer)."""
        return self._client.pages(f"{_path(hook)}/events", answers.Logged, {"per_page": LOG_PAGE})

    def create(self, project_id: int, settings: dict[str, Any]) -> None:
        """Create a webhook."""
        self._client.post(f"/projects/{project_id}/hooks", settings)
        self.forget(project_id)

    def update(self, hook: Hook, settings: dict[str, Any]) -> None:
        """Change a webhook."""
        self._client.put(_path(hook), settings)
        self.forget(hook.project_id)

    def test(self, hook: Hook, trigger: str) -> None:
        """Make GitLab send a test. If it is answered with 2xx, GitLab enables the hook again.

        Raises GitLabRefused with status 422 if it was not, or if GitLab has no data for a test.
        """
        try:
            self._client.post(f"{_path(hook)}/test/{trigger}", {})
        finally:
            self.forget(hook.project_id)

    def resend(self, hook: Hook, delivery: int) -> None:
        """Make GitLab resend a delivery of its log (GitLab 17.4 and newer, 5 a minute)."""
        self._client.post(f"{_path(hook)}/events/{delivery}/resend", {})

    def _ask(self, project_id: int) -> list[Hook] | SourceError:
        """Ask GitLab for a project's webhooks. If one of ours can't be parsed, returns an error."""
        path, found = f"{place(project_id)}/hooks", list[Hook]()
        try:
            for page in self._client.pages(path, answers.Shape, {}):
                for hook in page.records:
                    name = self.name_of(str(hook.raw.get("url")))
                    if name is not None:
                        found.append(
                            _hook(project_id, name, checked.read(f"GET {path}", hook.raw, answers.HookAnswer))
                        )
        except SourceError as error:
            return error
        return found


_OTHER_TESTS = ("issues_events", "merge_requests_events", "note_events")
"""A test of these repeats the webhook of the newest object of its kind, so it makes no new event."""


def tests_of(hook: Hook) -> list[str]:
    """The triggers that a webhook may be tested with, the best first. A test needs no subscription; older versions of
    GitLab need a commit for a `push_events` test.
    """
    return [hook_tests.TRIGGER, *(name for name in _OTHER_TESTS if name in hook.triggers)]


def _hook(project_id: int, name: str, hook: Read[answers.HookAnswer]) -> Hook:
    return Hook(
        project_id=project_id,
        id=hook.shown.id,
        name=name,
        url=hook.shown.url,
        triggers=frozenset(key for key, value in hook.raw.items() if key.endswith("_events") and value is True),
        alert_status=hook.shown.alert_status,
        disabled_until=hook.shown.disabled_until,
        shown=hook.raw,
    )


def _path(hook: Hook) -> str:
    return f"{place(hook.project_id)}/hooks/{hook.id}"
