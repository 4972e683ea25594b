"""GitLab's own log of our webhooks' deliveries: bodies as GitLab wrote them, of 7 days (gitlab-facts, section 2).

A delivery that arrived is known by its `Idempotency-Key` already; one that failed is recovered here, with GitLab's
own body. E-mail addresses are blotted out in it. The log has no times of its own: the `Date` of our answer says
when a delivery was made, and of one that failed its neighbours and its body. What happened while GitLab had the
hook switched off is not in the log.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec
import orjson
import structlog

from reconciler.events import times
from reconciler.events.fields import dig, text
from reconciler.events.fingerprint import REDACTED
from reconciler.events.hook_tests import is_test
from reconciler.events.identify import webhook_sighting
from reconciler.events.sighting import KEPT_HEADERS, Precision, Recovery, Sighting
from reconciler.events.times import DAY, MINUTE, Millis
from reconciler.ledger.coverage import Interval
from reconciler.sources.errors import NoHook
from reconciler.sources.hooks import LOG_PAGE, Hook, Hooks
from reconciler.sources.source import Project, Slice

CLOCKS = MINUTE
"""How far the clock that wrote a `Date` may be from GitLab's."""

_FROM_NEIGHBOURS = {
    Precision.RECEIVED: Precision.ESTIMATED,
    Precision.ALONE: Precision.GUESSED,
    Precision.LOOSE: Precision.GUESSED,
}
"""What becomes of a time of receipt that only the neighbours tell."""

log = structlog.get_logger(__name__)


class HookLog:
    """Reads the logs of a project's webhooks."""

    name = "hook_log"
    keeps_for: Millis = Millis(7 * DAY)
    completes = False

    def __init__(self, hooks: Hooks) -> None:
        self._hooks = hooks

    def read(self, project: Project, window: Interval) -> Iterator[Slice]:
        """Read a window in one slice: the log can only be read from its newest end."""
        hooks = self._hooks.of(project.id)
        if not hooks:
            raise NoHook(f"{project.path or project.id}: no webhook there delivers to us: `hooks ensure` makes one")
        found = [sighting for hook in hooks for sighting in self._read(hook, window)]
        yield Slice(window, sorted(found, key=lambda s: s.seen_at))

    def complete(self, project: Project, sightings: Sequence[Sighting]) -> list[Sighting]:
        """The log's bodies are whole."""
        return list(sightings)

    def _read(self, hook: Hook, window: Interval) -> list[Sighting]:
        """A hook's deliveries down to the window's beginning, oldest first."""
        found: list[_Dated] = []
        for record in self._hooks.log(hook):
            delivery = Delivery(record)
            answered_at = delivery.answered_at
            if answered_at is not None and answered_at < window.start - CLOCKS:
                break
            sighting = _sighting(hook, delivery, answered_at or window.end)
            if sighting is not None:
                found.append(_Dated(sighting, answered_at or _own_time(sighting), _commit_times(delivery.body)))
        return _between_neighbours(found[::-1], window)


class Delivery:
    """One record of the log."""

    def __init__(self, record: dict[str, Any]) -> None:
        self.id: int = record.get("id") or 0
        self.body = record.get("request_data")
        self.status = text(str(record.get("response_status") or ""))
        headers = record.get("request_headers")
        by_name = {str(k).lower(): v for k, v in headers.items()} if isinstance(headers, dict) else {}
        self.headers = {name: value for name in KEPT_HEADERS if (value := text(by_name.get(name.lower())))}
        self.answered_at = _date(record.get("response_headers"))

    @property
    def failed(self) -> bool:
        """Whether GitLab took the answer for a failure: a 3xx it takes for success (gitlab-facts, section 1)."""
        return self.status is None or not self.status.startswith(("2", "3"))

    @property
    def hook_event(self) -> str | None:
        return self.headers.get("X-Gitlab-Event")


def newest_delivery(hooks: Hooks, hook: Hook) -> int:
    """GitLab's number for the newest delivery in a hook's log; 0 where there is none.

    Raises SourceError.
    """
    return next((Delivery(record).id for record in hooks.log(hook)), 0)


def test_after(hooks: Hooks, hook: Hook, number: int) -> Sighting | None:
    """The newest test of `push_events` in a hook's log after a delivery; None where none was made.

    Raises SourceError.
    """
    for record in itertools.islice(hooks.log(hook), LOG_PAGE):
        delivery = Delivery(record)
        if delivery.id <= number:
            return None
        if is_test(delivery.body):
            return _sighting(hook, delivery, times.now())
    return None


class _Dated(msgspec.Struct, frozen=True):
    """A delivery, and when it was made as far as its answer or its body tell."""

    sighting: Sighting
    at: Millis | None
    committed: list[Millis]
    """A push has no time of its own; its commits were made before it, mostly just before."""


def _own_time(sighting: Sighting) -> Millis | None:
    """GitLab's own time of the event; None where the identity has only the time it was given as that of receipt."""
    at = sighting.identity.happened_at
    return None if at == sighting.seen_at else at


def _commit_times(body: Any) -> list[Millis]:
    commits = dig(body, "commits")
    made = (times.parse(dig(commit, "timestamp")) for commit in commits) if isinstance(commits, list) else ()
    return [at for at in made if at is not None]


def _between_neighbours(found: list[_Dated], window: Interval) -> list[Sighting]:
    """Where nothing tells when a delivery was made, it was made between its neighbours."""
    newer: list[Millis] = []
    upper = window.end
    for dated in reversed(found):
        upper = upper if dated.at is None else min(upper, dated.at)
        newer.append(upper)
    placed = []
    lower = window.start
    for dated, upper in zip(found, reversed(newer), strict=True):
        sighting, identity = dated.sighting, dated.sighting.identity
        if dated.at is not None:
            lower = max(lower, min(dated.at, window.end))
            placed.append(msgspec.structs.replace(sighting, seen_at=dated.at))
            continue
        committed = [at for at in dated.committed if lower <= at <= upper]
        at = max(committed, default=(min(lower, upper) + upper) // 2)
        precision = _FROM_NEIGHBOURS.get(identity.precision, identity.precision)
        identity = msgspec.structs.replace(identity, happened_at=at, precision=precision)
        placed.append(msgspec.structs.replace(sighting, seen_at=at, identity=identity))
    return placed


def _sighting(hook: Hook, delivery: Delivery, made_at: Millis) -> Sighting | None:
    body = delivery.body
    if not isinstance(body, dict) or body == {"oversize": True}:
        why = "too large" if body else "no JSON object"
        log.warning("a body is not in GitLab's hook log", hook=hook.name, delivery=delivery.id, why=why)
        return None
    sighting = webhook_sighting(
        body,
        payload=orjson.dumps(body).decode(),
        source=f"webhook:{hook.name}",
        source_id=delivery.headers.get("Idempotency-Key"),
        event_uuid=delivery.headers.get("X-Gitlab-Event-UUID"),
        seen_at=made_at,
        headers=delivery.headers,
        project_ids={},
    )
    return msgspec.structs.replace(sighting, recovery=Recovery(by="hook_log", redacted=_redacted(body)))


def _date(headers: Any) -> Millis | None:
    """When our receiver answered, by its `Date` header."""
    if not isinstance(headers, dict):
        return None
    date = next((value for name, value in headers.items() if str(name).lower() == "date"), None)
    try:
        return Millis(round(parsedate_to_datetime(str(date)).timestamp() * 1000))
    except (ValueError, TypeError):
        return None


def _redacted(value: Any, path: str = "") -> list[str]:
    """The paths of what GitLab blotted out."""
    if value == REDACTED:
        return [path]
    if isinstance(value, dict):
        found = [p for name, item in value.items() for p in _redacted(item, f"{path}.{name}" if path else name)]
    elif isinstance(value, list):
        found = [p for item in value for p in _redacted(item, f"{path}[]")]
    else:
        return []
    return list(dict.fromkeys(found))
