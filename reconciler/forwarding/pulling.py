"""Hands out the events of destinations of `kind: pull`, and takes their acknowledgements.

Nothing is kept of what was handed out: a batch's cursor names its deliveries (`pull_cursor`). So any copy of the
service may answer any request, and a batch that is not acknowledged is handed out again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

import msgspec
import structlog

from reconciler.config.destinations import Destination
from reconciler.config.models import Config
from reconciler.events import times
from reconciler.events.times import Millis
from reconciler.forwarding import pull_cursor
from reconciler.forwarding.formats import Formatter
from reconciler.forwarding.jail import TransformFailed
from reconciler.forwarding.message import Message
from reconciler.forwarding.outbox import CHECK_INTERVAL_S, MOST_BYTES
from reconciler.forwarding.outcome import Outcome, classify_message_error
from reconciler.forwarding.pull_cursor import Fetched, WrongCursor
from reconciler.forwarding.pull_formatters import Made, PullFormatters
from reconciler.forwarding.waiting import TooMany, Waiting
from reconciler.forwarding.watcher import Watcher
from reconciler.ledger.queue import pulled
from reconciler.ledger.queue.deliveries import Attempt, Outgoing, Ready
from reconciler.ledger.queue.destinations import DestinationState, destination_states
from reconciler.ledger.queue.pulled import HandedOut
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.ids import event_ids

log = structlog.get_logger(__name__)

PATIENCE_S = 10.0
"""How long messages are built for one answer, and others waited for who build them. A stop waits longer."""
_THREADS = 4

OpenLedger = Callable[[], AbstractContextManager[Database]]

__all__ = ["Batch", "Ledgers", "NotPulled", "NotServed", "Paused", "Pulls", "TooMany", "WrongCursor"]


class Ledgers(msgspec.Struct, frozen=True):
    """How the ledger is opened."""

    reading: OpenLedger
    writing: OpenLedger


class NotPulled(Exception):
    """There is no such destination whose events can be fetched."""


class NotServed(Exception):
    """The ledger does not know the destination yet."""


class Paused(Exception):
    """The destination is paused. What the request acknowledged is recorded."""


class Batch(msgspec.Struct, frozen=True):
    """What a consumer gets. The cursor acknowledges it."""

    events: list[tuple[Outgoing, Message]]
    cursor: str


class _Look(msgspec.Struct):
    """What one look at the ledger did, and found."""

    destination_id: int = 0
    paused_why: str | None = None
    cursor: str = ""
    since: Millis = Millis(0)
    acknowledged: list[Millis] = []
    """When each delivery that was acknowledged had been opened."""
    failed: list[Outcome] = []
    found: list[tuple[Ready, Message]] = []
    is_cut: bool = False
    """Whether something may be pending although nothing was found."""


class Pulls:
    """What is fetched at this copy of the service. `current` is the config."""

    def __init__(self, current: Callable[[], Config]) -> None:
        self.waiting = Waiting()
        self.watcher: Watcher | None = None
        """Told of what was delivered or failed, once there is one."""
        self._current = current
        self._formatters = PullFormatters()
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="pull")
        """Own ones: a slow transform keeps nothing else waiting."""

    async def pull(
        self,
        ledger: Ledgers,
        name: str,
        cursor: str | None,
        *,
        limit: int,
        wait: Millis,
        is_gone: Callable[[], Awaitable[bool]],
    ) -> Batch:
        """Acknowledge the cursor's batch, and hand out what is pending next. If nothing is, wait for it so long, but
        not for a client that `is_gone`.

        Raises NotPulled, NotServed, Paused, TooMany, WrongCursor or LedgerError.
        """
        clock = asyncio.get_running_loop().time
        until = clock() + wait / 1000
        patient_until = max(until, clock() + PATIENCE_S)
        with self.waiting.waiter() as waiter:
            while True:
                waiter.clear()
                look = await self._looked(ledger, name, cursor, limit)
                if look.paused_why is not None:
                    raise Paused(f"{name} is paused ({look.paused_why}): `destinations resume {name}` resumes it")
                left = (patient_until if look.is_cut else until) - clock()
                if look.found or left <= 0 or self.waiting.is_over or await is_gone():
                    return Batch([(one.event, message) for one, message in look.found], look.cursor)
                cursor, waiter.destination_id = None, look.destination_id
                if not look.is_cut:
                    await waiter.wait(min(left, CHECK_INTERVAL_S))

    def close(self) -> None:
        """End the transforms, also those that run. From then on, nothing is handed out: nobody may wait any more."""
        self._formatters.close()

    async def _looked(self, ledger: Ledgers, name: str, cursor: str | None, limit: int) -> _Look:
        look = _Look()
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._threads, self._look, ledger, name, cursor, limit, look)
        finally:  # a part of it may be recorded
            self._report(name, look)
        return look

    def _look(self, ledger: Ledgers, name: str, cursor: str | None, limit: int, look: _Look) -> None:
        """Acknowledge, and take what is pending. The first is done even if the destination is paused."""
        until = time.monotonic() + PATIENCE_S
        config = self._current()
        destination = _configured(config, name)
        with ledger.reading() as db:
            state = _known(db, name)
            look.destination_id = state.id
            event_id = event_ids(db)
            fetched = pull_cursor.decoded(cursor, state.id, name, event_id) if cursor else None
            if fetched is not None and fetched.some:
                now = times.now()
                look.since = min(fetched.at, now)
                with ledger.writing() as written:
                    look.acknowledged = pulled.acknowledge(written, state.id, fetched.some, since=fetched.at, now=now)
            if state.paused_at is not None and state.paused_why is not None:
                look.paused_why = state.paused_why
                return
            with self._formatters.of(config, destination, event_id, until=until) as made:
                if made is None:
                    look.is_cut = True
                else:
                    failed = self._take(db, destination, made, look, limit, until)
                    _record_failures(ledger, look, failed)
            look.cursor = _cut(look, lambda fetched: pull_cursor.encoded(fetched, state.id, name, event_id))

    def _take(
        self, db: Database, destination: Destination, made: Made, look: _Look, limit: int, until: float
    ) -> list[Outcome]:
        """Take up to `limit` deliveries. Returns the attempts of those whose message can't be built."""
        failed: list[Outcome] = []
        held: set[str] = set()
        size = 0
        for one in pulled.next_deliveries(
            db, look.destination_id, now=times.now(), limit=limit, most_bytes=MOST_BYTES
        ):
            is_late = bool(look.found or failed) and time.monotonic() >= until
            if is_late or self.waiting.is_over or size >= MOST_BYTES:  # a transform may make more of a body
                break
            if one.queued.lane in held:
                continue
            try:
                message = _message(made.formatter, one)
                look.found.append((one, message))
                size += len(message.body)
            except Exception as error:  # whatever it is, one event must not block the others
                if made.is_closed:
                    look.is_cut = True
                    break
                failed.append(_failure(destination, look.destination_id, one, error))
                if not isinstance(error, TransformFailed):
                    log.exception("message not built", event_id=one.queued.event_id)
                    held.add(one.queued.lane)
        return failed

    def _report(self, name: str, look: _Look) -> None:
        for one in look.failed:
            if one.is_dead_letter:
                tried = one.attempt
                log.warning(f"dead letter: {one.why}", destination=name, event_id=tried.event_id, error=tried.error)
        if self.watcher is None:
            return
        now = times.now()
        for opened_at in look.acknowledged:
            self.watcher.attempted(name, "delivered", Millis(now - look.since), Millis(now - opened_at))
        for one in look.failed:
            took = Millis(one.attempt.ended_at - one.attempt.started_at)
            self.watcher.attempted(name, one.attempt.error_class or "", took, None)
        if any(one.is_dead_letter for one in look.failed):
            self.watcher.trouble()


def _configured(config: Config, name: str) -> Destination:
    found = next((one for one in config.destinations if one.name == name), None)
    if found is None:
        raise NotPulled(f"no destination named {name!r} in the config")
    if not found.is_pulled:
        raise NotPulled(
            f"destination {name!r} is of kind {found.kind}: only those of `kind: pull` have events to fetch"
        )
    return found


def _known(db: Database, name: str) -> DestinationState:
    found = next((one for one in destination_states(db) if one.name == name and one.active), None)
    if found is None:
        raise NotServed(f"the ledger does not know destination {name!r} yet: the service is starting")
    return found


def _message(formatter: Formatter, one: Ready) -> Message:
    queued = one.queued
    return formatter.message(
        one.event, attempt=queued.attempts + 1, replays=queued.replays, now=times.now(), lane=queued.lane
    )


def _record_failures(ledger: Ledgers, look: _Look, failed: list[Outcome]) -> None:
    if not failed:
        return
    with ledger.writing() as db:
        pulled.record_failures(db, look.destination_id, [(outcome.queued, outcome.settled) for outcome in failed])
    look.failed = failed
    look.is_cut = True  # others may follow


def _failure(destination: Destination, destination_id: int, one: Ready, error: Exception) -> Outcome:
    queued, now = one.queued, times.now()
    attempt = Attempt(queued.event_id, destination_id, one.event.sighting_id, queued.attempts + 1, now, now)
    return classify_message_error(destination.retry, queued, attempt, error, now=now)


def _cut(look: _Look, encode: Callable[[Fetched], str]) -> str:
    """The cursor of what was found. If it is too long, the last ones are left for the next request."""
    while True:
        # Not before any of them was opened, even if the clock was set back since then.
        at = max([times.now(), *(one.queued.opened_at for one, _ in look.found)])
        some = [HandedOut(one.queued.event_id, one.event.sighting_id, one.queued.replays) for one, _ in look.found]
        cursor = encode(Fetched(at, some))
        if len(cursor) <= pull_cursor.LONGEST or len(some) == 1:
            return cursor
        look.found = look.found[: len(some) * pull_cursor.LONGEST // len(cursor)]
