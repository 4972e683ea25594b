"""Our webhooks in GitLab: finding them, setting them up, testing them, and their log's deliveries sent again.

`GET|POST /projects/:id/hooks`, `PUT /projects/:id/hooks/:hook_id`, `POST .../test/:trigger`,
`POST .../events/:event_id/resend`: all for a Maintainer's token; what changes something needs the `api` scope.
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
"""Where the receiver takes deliveries; below it, one path for each hook."""
LOG_PAGE = 20
"""The hook log shows no more at once (`lib/api/hooks/events.rb`)."""
REMEMBERED = Millis(5 * MINUTE)
"""For how long a project's hooks are taken to be as they were."""


class Hook(msgspec.Struct, frozen=True):
    """A webhook of a project, or of a group (its id below zero), that delivers to this receiver. `name` is its entry
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
    def is_off(self) -> bool:
        """Whether GitLab has switched it off, for a while or for good."""
        return self.alert_status in ("temporarily_disabled", "disabled")


class Hooks:
    """Projects' webhooks, asked of GitLab at most every few minutes. Safe to use from several threads."""

    def __init__(self, client: Client, receiver: Receiver) -> None:
        self._client = client
        self.entries = receiver.hooks
        self._names = {hook.name for hook in receiver.hooks}
        self._base = receiver.url.rstrip("/") if receiver.url else None
        self._lock = threading.Lock()
        self._known: dict[int, tuple[float, list[Hook] | SourceError]] = {}

    def of(self, project_id: int, *, fresh: bool = False) -> list[Hook]:
        """A project's webhooks that deliver here.

        Raises SourceError where GitLab does not show them (it shows them to Maintainers).
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
        """They were changed: ask anew."""
        with self._lock:
            self._known.pop(project_id, None)

    def url_of(self, name: str) -> str | None:
        """The URL that GitLab should post to for an entry of `receiver.hooks`; None without `receiver.url`."""
        return None if self._base is None else f"{self._base}{PATH}/{name}"

    def name_of(self, url: str) -> str | None:
        """Which entry of `receiver.hooks` a webhook's URL delivers to; None where it goes elsewhere.

        Without `receiver.url` only the path can tell.
        """
        try:
            parts = urlsplit(url)
        except ValueError:  # somebody else's, whatever it is
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
        """Enter a webhook."""
        self._client.post(f"/projects/{project_id}/hooks", settings)
        self.forget(project_id)

    def update(self, hook: Hook, settings: dict[str, Any]) -> None:
        """Change a webhook."""
        self._client.put(_path(hook), settings)
        self.forget(hook.project_id)

    def test(self, hook: Hook, trigger: str) -> None:
        """Make GitLab deliver a test: where it is answered with 2xx, GitLab switches the hook on again.

        Raises GitLabRefused with status 422 where it was not, and where GitLab has nothing to make a test of.
        """
        try:
            self._client.post(f"{_path(hook)}/test/{trigger}", {})
        finally:
            self.forget(hook.project_id)

    def resend(self, hook: Hook, delivery: int) -> None:
        """Make GitLab send a delivery of its log again (GitLab 17.4 and newer, 5 a minute)."""
        self._client.post(f"{_path(hook)}/events/{delivery}/resend", {})

    def _ask(self, project_id: int) -> list[Hook] | SourceError:
        """Those of them that deliver here. One of ours that can't be understood is one that can't be read."""
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
"""Each tells of the newest thing of its kind, as it was told when that was made: it makes no event of its own."""


def tests_of(hook: Hook) -> list[str]:
    """The triggers that a webhook may be tested with, the best first. GitLab needs no subscription for a test; older
    versions need a commit for one of `push_events`.
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
