"""GitLab's own log of our webhooks' deliveries: bodies as GitLab wrote them, of 7 days (gitlab-facts, section 2).

A delivery that arrived is known by its `Idempotency-Key` already; one that failed is recovered here, with GitLab's
own body. E-mail addresses are blotted out in it. Newer versions say when each delivery was made; of older ones the
`Date` of our answer does, and of one that failed its body and its neighbours. What happened while GitLab had the hook
switched off is not in the log.
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
from reconciler.events.sighting import KEPT_HEADERS, Precision, Recovery, Sighting
from reconciler.events.times import DAY, MINUTE, Millis
from reconciler.events.webhook_sighting import webhook_sighting
from reconciler.ledger.coverage.intervals import Interval
from reconciler.ledger.coverage.unreadable import Unreadable
from reconciler.sources import answers, checked
from reconciler.sources.answers import Json
from reconciler.sources.errors import NoHook
from reconciler.sources.hooks import Hook, Hooks
from reconciler.sources.source import Project, Slice
from reconciler.sources.spool import Spool
from reconciler.sources.webhook_payload import explain

CLOCKS = MINUTE
"""How far the clock that wrote a `Date` may be from GitLab's."""

AT_A_TIME = 100
"""How many deliveries are told at a time."""

_FROM_NEIGHBOURS = {
    Precision.RECEIVED_TIME: Precision.ESTIMATED_TIME,
    Precision.RECEIVED_UNVERIFIED: Precision.ESTIMATED_UNVERIFIED,
    Precision.RECEIVED_REPEATABLE: Precision.ESTIMATED_UNVERIFIED,
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
        """Read a window: the logs of all hooks together, oldest delivery first. It is covered when all is told."""
        hooks = self._hooks.of(project.id)
        if not hooks:
            raise NoHook(f"{project.path or project.id}: no webhook there delivers to us: `hooks ensure` makes one")
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

    def complete(self, project: Project, sightings: Sequence[Sighting]) -> list[Sighting]:
        """The log's bodies are whole."""
        return list(sightings)

    def _put_aside(self, hook: Hook, window: Interval, spool: Spool) -> Iterator[Slice]:
        """Read a hook's log down to the window's beginning, and note with each delivery before when it was made, by
        what was made after it.
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
    """One record of the log."""

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
        """Whether the log has what was posted: GitLab leaves out what is too large for it."""
        return isinstance(self.body, dict) and self.body != {"oversize": True}

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
    page = next(hooks.log(hook))
    return max((record.shown.id for record in page.records), default=0)


def test_after(hooks: Hooks, hook: Hook, number: int) -> Sighting | None:
    """The newest test of `push_events` in a hook's log after a delivery; None where none was made.

    Raises SourceError.
    """
    page = next(hooks.log(hook))
    newest = [record.shown for record in page.records if record.shown.id > number]
    test = next((shown for shown in newest if is_test(shown.request_data)), None)
    return None if test is None else _sighting(hook, Delivery(test), times.now())


@dataclass
class _Reading:
    """What comes of the deliveries in a window, beside sightings, since the last slice."""

    window: Interval
    unreadable: list[Unreadable] = field(default_factory=list)
    understood: list[str] = field(default_factory=list)

    def slice(self, sightings: list[Sighting]) -> Slice:
        made = Slice(sightings=sightings, unreadable=self.unreadable, understood=self.understood)
        self.unreadable, self.understood = [], []
        return made


def _sightings_of(hook: Hook, spool: Spool, reading: _Reading) -> Iterator[Sighting]:
    """A hook's deliveries, oldest first. Where nothing tells when one was made, it was between its neighbours."""
    after = reading.window.start
    for raw, at, before in itertools.chain.from_iterable(spool.backwards()):
        if at is not None:
            after = max(after, min(at, reading.window.end))
        [record] = checked.read_again([raw], answers.Logged)
        try:
            sighting = _placed(hook, Delivery(record.shown), at, after=after, before=before)
        except Exception as error:  # whatever is in a record, it must not cost the others
            reading.unreadable.append(checked.unreadable(raw, answers.Logged.name_in, explain(error)))
            continue
        reading.understood.append(record.ident)
        if sighting is not None:
            yield sighting


def _placed(hook: Hook, delivery: Delivery, at: Millis | None, *, after: Millis, before: Millis) -> Sighting | None:
    """What a delivery tells, at the time that it was made or, where that is not known, at some time between two."""
    if not delivery.has_body:
        why = "too large" if delivery.body else "no JSON object"
        log.warning("hook log has no body", hook=hook.name, delivery=delivery.id, why=why)
        return None
    if at is not None:
        return _sighting(hook, delivery, at)
    committed = [at for at in _commit_times(delivery.body) if after <= at <= before]
    sighting = _sighting(hook, delivery, max(committed, default=Millis((min(after, before) + before) // 2)))
    precision = _FROM_NEIGHBOURS.get(sighting.identity.precision, sighting.identity.precision)
    identity = msgspec.structs.replace(sighting.identity, precision=precision)
    return msgspec.structs.replace(sighting, identity=identity)


def _own_time(hook: Hook, shown: answers.Logged, latest: Millis) -> Millis | None:
    """GitLab's own time of the event; None where its body tells none."""
    delivery = Delivery(shown)
    if not delivery.has_body:
        return None
    try:
        at = _sighting(hook, delivery, latest).identity.happened_at
    except Exception:  # it is named when its turn comes to be told
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
    """When a delivery was made: by GitLab's own word, else by the `Date` of our answer."""
    made_at = times.parse(shown.created_at)
    if made_at is not None or shown.response_headers is None:
        return made_at
    date = next((value for name, value in shown.response_headers.items() if name.lower() == "date"), None)
    try:
        return Millis(round(parsedate_to_datetime(str(date)).timestamp() * 1000))
    except (ValueError, TypeError, OverflowError):
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
