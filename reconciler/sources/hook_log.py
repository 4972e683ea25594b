"""Reads GitLab's log of our webhooks' deliveries: GitLab's own bodies of the last 7 days (docs/gitlab.md, "The
webhook's log").

A delivery that arrived is recognized by its `Idempotency-Key`. One that failed is recovered here, with GitLab's own
body, in which e-mail addresses are redacted. Newer versions of GitLab log the time of each delivery. For older ones
it is the `Date` of our answer; for a failed delivery it is estimated from its body and its neighbours. Events while
GitLab had disabled the hook are not in the log.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec
import orjson
import structlog

from reconciler.events import times
from reconciler.events.fields import dig, text
from reconciler.events.fingerprint import REDACTED
from reconciler.events.hook_tests import is_test
from reconciler.events.intervals import Interval
from reconciler.events.sighting import KEPT_HEADERS, Precision, Recovery, Sighting
from reconciler.events.times import DAY, MINUTE, Millis
from reconciler.events.unreadable import Unreadable
from reconciler.events.webhook_sighting import webhook_sighting
from reconciler.sources import answers, checked
from reconciler.sources.answers import Json
from reconciler.sources.errors import NoHook
from reconciler.sources.hooks import Hook, Hooks
from reconciler.sources.source import Built, Project, Slice
from reconciler.sources.spool import Spool
from reconciler.sources.webhook_payload import explain

CLOCKS = MINUTE
"""How far the clock behind a `Date` may be from GitLab's."""

AT_A_TIME = 100
"""How many deliveries a slice has at most."""

_FROM_NEIGHBOURS = {
    Precision.RECEIVED_TIME: Precision.ESTIMATED_TIME,
    Precision.RECEIVED_UNVERIFIED: Precision.ESTIMATED_UNVERIFIED,
    Precision.RECEIVED_REPEATABLE: Precision.ESTIMATED_UNVERIFIED,
}
"""The precision of a time that is estimated from its neighbours."""

log = structlog.get_logger(__name__)


class HookLog:
    """Reads the hook logs of a project's webhooks."""

    name = "hook_log"
    keeps_for: Millis = Millis(7 * DAY)
    rebuilds_lazily = False

    def __init__(self, hooks: Hooks) -> None:
        self._hooks = hooks

    def read(self, project: Project, window: Interval) -> Iterator[Slice]:
        """Read a window of all hooks' logs together, oldest delivery first. The last slice covers the window."""
        hooks = self._hooks.of(project.id)
        if not hooks:
            raise NoHook(
                f"{project.path or project.id}: it has no webhook for this receiver: `hooks ensure` creates one"
            )
        with ExitStack() as stack:
            spools = [(hook, stack.enter_context(Spool())) for hook in hooks]
            for hook, spool in spools:
                yield from self._put_aside(hook, window, spool)
            reading = _Reading(window)
            by_hook = [_sightings_of(hook, spool, reading) for hook, spool in spools]
            merged = heapq.merge(*by_hook, key=lambda sighting: sighting.seen_at)
            while batch := list(itertools.islice(merged, AT_A_TIME)):
                yield reading.slice(batch)
            yield reading.slice([])
        yield Slice(covered=window)

    def build(self, project: Project, sightings: Sequence[Sighting], *, details: bool) -> Built:
        """The log has GitLab's own bodies."""
        return Built(list(sightings))

    def _put_aside(self, hook: Hook, window: Interval, spool: Spool) -> Iterator[Slice]:
        """Read a hook's log back to the window's start. Store with each delivery its time, if known, and the time of
        the delivery after it.
        """
        before = window.end
        for page in self._hooks.log(hook):
            kept = []
            for record in page.records:
                at = _made_at(record.shown)
                if at is not None and at < window.start - CLOCKS:
                    break
                if at is None:
                    at = _own_time(hook, record.shown, window.end)
                before = before if at is None else min(before, at)
                kept.append((record.raw, at, before))
            spool.add(kept)
            if page.unreadable:
                yield Slice(unreadable=page.unreadable)
            if len(kept) < len(page.records):  # the rest is older
                return


class Delivery:
    """One delivery in the log."""

    def __init__(self, shown: answers.Logged) -> None:
        self.id = shown.id
        self.body = shown.request_data
        self.status = None if shown.response_status is None else text(str(shown.response_status))
        by_name = {name.lower(): value for name, value in (shown.request_headers or {}).items()}
        kept = {name: text(by_name.get(name.lower())) for name in KEPT_HEADERS}
        self.headers = {name: value for name, value in kept.items() if value and value != REDACTED}
        self.made_at = _made_at(shown)

    @property
    def has_body(self) -> bool:
        """Whether the log has the body: GitLab leaves out large ones."""
        return isinstance(self.body, dict) and self.body != {"oversize": True}

    @property
    def failed(self) -> bool:
        """Whether GitLab counts the delivery as failed: it counts a 3xx as success (docs/gitlab.md,
        "Webhook deliveries").
        """
        return self.status is None or not self.status.startswith(("2", "3"))

    @property
    def hook_event(self) -> str | None:
        return self.headers.get("X-Gitlab-Event")


def newest_delivery(hooks: Hooks, hook: Hook) -> int:
    """GitLab's id of the newest delivery in a hook's log; 0 if there is none.

    Raises SourceError.
    """
    page = next(hooks.log(hook))
    return max((record.shown.id for record in page.records), default=0)


def test_after(hooks: Hooks, hook: Hook, number: int) -> Sighting | None:
    """The newest `push_events` test in a hook's log after delivery `number`; None if there is none.

    Raises SourceError.
    """
    page = next(hooks.log(hook))
    newest = [record.shown for record in page.records if record.shown.id > number]
    test = next((shown for shown in newest if is_test(shown.request_data)), None)
    return None if test is None else _sighting(hook, Delivery(test), times.now())


@dataclass
class _Reading:
    """The unreadable and understood records of a window since the last slice."""

    window: Interval
    unreadable: list[Unreadable] = field(default_factory=list)
    understood: list[str] = field(default_factory=list)

    def slice(self, sightings: list[Sighting]) -> Slice:
        made = Slice(sightings=sightings, unreadable=self.unreadable, understood=self.understood)
        self.unreadable, self.understood = [], []
        return made


def _sightings_of(hook: Hook, spool: Spool, reading: _Reading) -> Iterator[Sighting]:
    """The sightings of a hook's deliveries, oldest first. An unknown time is estimated from the neighbours."""
    after = reading.window.start
    for raw, at, before in itertools.chain.from_iterable(spool.backwards()):
        if at is not None:
            after = max(after, min(at, reading.window.end))
        [record] = checked.read_again([raw], answers.Logged)
        try:
            sighting = _placed(hook, Delivery(record.shown), at, after=after, before=before)
        except Exception as error:  # one bad record must not affect the others
            reading.unreadable.append(checked.unreadable(raw, answers.Logged.name_in, explain(error)))
            continue
        reading.understood.append(record.ident)
        if sighting is not None:
            yield sighting


def _placed(hook: Hook, delivery: Delivery, at: Millis | None, *, after: Millis, before: Millis) -> Sighting | None:
    """The sighting of a delivery at its time; without one, at an estimated time between two others."""
    if not delivery.has_body:
        why = "too large" if delivery.body else "not a JSON object"
        log.warning("hook log has no body", hook=hook.name, delivery=delivery.id, reason=why)
        return None
    if at is not None:
        return _sighting(hook, delivery, at)
    committed = [at for at in _commit_times(delivery.body) if after <= at <= before]
    sighting = _sighting(hook, delivery, max(committed, default=Millis((min(after, before) + before) // 2)))
    precision = _FROM_NEIGHBOURS.get(sighting.identity.precision, sighting.identity.precision)
    identity = msgspec.structs.replace(sighting.identity, precision=precision)
    return msgspec.structs.replace(sighting, identity=identity)


def _own_time(hook: Hook, shown: answers.Logged, latest: Millis) -> Millis | None:
    """GitLab's time of the event from the body; None if it states none."""
    delivery = Delivery(shown)
    if not delivery.has_body:
        return None
    try:
        at = _sighting(hook, delivery, latest).identity.happened_at
    except Exception:  # it is reported when the delivery is read
        return None
    return None if at == latest else at


def _commit_times(body: Any) -> list[Millis]:
    commits = dig(body, "commits")
    made = (times.parse(dig(commit, "timestamp")) for commit in commits) if isinstance(commits, list) else ()
    return [at for at in made if at is not None]


def _sighting(hook: Hook, delivery: Delivery, made_at: Millis) -> Sighting:
    body: Json = delivery.body
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


def _made_at(shown: answers.Logged) -> Millis | None:
    """The time of a delivery: from GitLab's log, else the `Date` of our answer."""
    made_at = times.parse(shown.created_at)
    if made_at is not None or shown.response_headers is None:
        return made_at
    date = next((value for name, value in shown.response_headers.items() if name.lower() == "date"), None)
    try:
        return Millis(round(parsedate_to_datetime(str(date)).timestamp() * 1000))
    except (ValueError, TypeError, OverflowError):
        return None


def _redacted(value: Any, path: str = "") -> list[str]:
    """The paths of the values that GitLab redacted."""
    if value == REDACTED:
        return [path]
    if isinstance(value, dict):
        found = [p for name, item in value.items() for p in _redacted(item, f"{path}.{name}" if path else name)]
    elif isinstance(value, list):
        found = [p for item in value for p in _redacted(item, f"{path}[]")]
    else:
        return []
    return list(dict.fromkeys(found))
