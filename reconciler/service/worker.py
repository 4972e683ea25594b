"""The worker's process, and the composition root: it builds everything but the receiver, connects it, and stops it in
order. If another copy is the worker, this one only delivers its share, and is ready to take over.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any

import msgspec
import structlog
import uvloop

from reconciler.config.load import ConfigError, Mistake
from reconciler.config.models import Config
from reconciler.events import times
from reconciler.events.hook_tests import ExpectedTests
from reconciler.events.intervals import Interval
from reconciler.forwarding.forwarder import Forwarder, Prepared
from reconciler.ledger.errors import LedgerDamaged, LedgerError, LedgerUnavailable
from reconciler.ledger.ledger import Ledger
from reconciler.ledger.queue.opening import Opened
from reconciler.ledger.recording.writer import Writer
from reconciler.ledger.storage.connection import LOOK_S, connect, is_damage
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.ids import event_ids
from reconciler.ledger.storage.lock import only_service
from reconciler.ledger.upkeep.repair import RESTORE
from reconciler.ledger.views.receiving import received
from reconciler.location import PostgresUrl
from reconciler.polling.reconciling import Reconciling, reconciling
from reconciler.service.alerting import Alerting
from reconciler.service.changes import asks_differently, fixed_keys
from reconciler.service.filter_warnings import FilterWatch
from reconciler.service.jobs import ScheduledJobs
from reconciler.service.loops import heartbeat, index, note_start, watch
from reconciler.service.notify import notify
from reconciler.service.opening import open_ledger, until_worker, when_writable
from reconciler.service.recording import Recording
from reconciler.service.repairing import ask_for_time, leave_note, repair_if_damaged
from reconciler.service.role import Role, Said
from reconciler.service.views import Views
from reconciler.service.watchers import LEDGER, LedgerListener, Watchers, start_traces
from reconciler.service.web import DRAIN_S
from reconciler.supervisor import Run, Supervisor, words, writable

RECORDED_FIRST_S = 10.0
"""How long a poll waits for webhooks that are to be recorded."""
RECORDER_PAUSE_S = 1.0
"""The longest pause before the recorder restarts."""

log = structlog.get_logger(__name__)


def serve(config: Config, read_again: Callable[[], Config], role: Role) -> None:
    """Record, poll and deliver until SIGTERM. SIGHUP reloads the config.

    A damaged ledger is repaired first, if possible.

    Raises ServiceError or LedgerError if the worker can't start.
    """
    path = config.ledger.location
    if isinstance(path, PostgresUrl):  # the connection that writes to it is the lock
        _run(_Worker(config, read_again, role))
        return
    beyond_repair = repair_if_damaged(path, role)
    try:
        with only_service(path, make=True, pid=role.service_pid):
            _run(_Worker(config, read_again, role))
    except LedgerDamaged as error:
        leave_note(path, str(error))
        what = str(error).removeprefix(f"{path}: ")
        then = RESTORE if beyond_repair else "the next start tries to repair it"
        raise LedgerDamaged(f"{path}: {what}; {then}") from error


def _run(worker: _Worker) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(worker.run())


class _Built(msgspec.Struct, frozen=True):
    """Everything that a config needs, built but not yet used."""

    config: Config
    destinations: Prepared
    reconciling: Reconciling | None


class _Worker:
    def __init__(self, config: Config, read_again: Callable[[], Config], role: Role) -> None:
        self._config = config
        self._read_again = read_again
        self._role = role
        self._stop = asyncio.Event()
        self._hang_up = asyncio.Event()
        self._applied = asyncio.Event()
        """Set once the destinations are those of the config."""
        self._begun = asyncio.Event()
        """Set once it does what the worker does."""
        self._changing = asyncio.Lock()
        """The config is not reloaded while this copy becomes the worker."""
        self._supervisor = Supervisor()
        self._expected_tests = ExpectedTests()
        self._port = config.receiver.port if role.port is None else role.port
        self._db: Database | None = None
        self._ids: Callable[[int], str] = str
        self._views = Views(
            lambda: self._config,
            lambda: None if self._db is None else self._db.trouble(),
            supervisor=self._supervisor,
            counts=None if role.link is None else role.link.counts,
        )

    async def run(self) -> None:
        """Run from opening the ledger to closing it."""
        self._catch_signals()
        self._traced = start_traces(self._event_id)  # first: libraries may be missing
        supervisor = self._supervisor
        stop = asyncio.create_task(self._stop.wait())
        opening = asyncio.create_task(
            open_ledger(self._config.ledger.location, waits=self._wait, trouble=self._note_waiting)
        )
        self._asking = asyncio.create_task(ask_for_time(self._role))
        await asyncio.wait({opening, stop}, return_when=asyncio.FIRST_COMPLETED)
        if not opening.done():
            await self._views.stop()
            return
        db, is_worker = opening.result()
        self._opened(db)
        reader = await asyncio.to_thread(connect, self._config.ledger.location, readonly=True)
        reader.on_lost = _lost
        reader.give_up_after(LOOK_S)
        parts = self._compose(db, reader)
        try:
            built = await self._build(self._config)
        except (Exception, SystemExit) as error:  # `load` checks everything: this is an unexpected error
            if is_damage(error):
                raise LedgerDamaged(f"{self._config.ledger.location}: {words(error.__cause__ or error)}") from error
            raise ConfigError([Mistake("the config", 0, "", _said(error))]) from error
        self._views.start()
        tasks = [supervisor.start(name, run) for name, run in parts.items()]
        tasks += [
            supervisor.start(name, run, longest_pause_s=RECORDER_PAUSE_S) for name, run in self._recorders().items()
        ]
        begin = asyncio.create_task(self._begin_at_once(built) if is_worker else self._stand_by(built))
        await asyncio.wait({begin, stop}, return_when=asyncio.FIRST_COMPLETED)
        if not begin.done() or begin.exception() is None:
            await stop

        await self._end(begin, [*tasks, stop, self._asking])
        db.on_lost = reader.on_lost = None  # a statement that still waits for others ends with its connection
        reader.close()
        db.close()
        with contextlib.suppress(asyncio.CancelledError):
            await begin  # raises the reason if it could not start
        log.info("stopped")

    async def _end(self, begin: asyncio.Task[None], tasks: Sequence[asyncio.Task[Any]]) -> None:
        """Stop the parts, in order: what was received is recorded, attempts in flight end."""
        log.info("stopping")
        if self._role.is_alone:
            notify("STOPPING=1")
        begin.cancel()  # what stops must not become the worker meanwhile
        self._jobs.stop()
        await _stop_part("backfill", self._views.backfills.stop())
        views = asyncio.create_task(self._views.stop())
        await _stop_part("recorder", self._recording.drain(DRAIN_S))
        await _stop_part("forwarder", self._forwarder.drain(DRAIN_S))
        await _stop_part("dashboard", views)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._begun.is_set():  # else the last heartbeat is that of the previous run
            await _stop_part("ledger", self._ledger.note_stop(times.now()))
        await self._ledger.close()
        if self._traced is not None:
            await _stop_part("traces", asyncio.to_thread(self._traced.close))

    def _compose(self, db: Database, reader: Database) -> dict[str, Run]:
        """Build and connect the parts. Returns those that run all the time, by name."""
        config, supervisor = self._config, self._supervisor
        meters = self._views.meters
        self._ids = event_ids(reader)
        listener = LedgerListener(
            opened=self._deliveries_opened,
            meters=None if config.metrics.port is None else meters,
            traced=self._traced,
            supervisor=supervisor,
        )
        self._ledger = ledger = Ledger(Writer(db, listener=listener), reader)
        self._recording = Recording(config.ledger.location, ledger, self._expected_tests)
        build = partial(reconciling, ledger=ledger, expected_tests=self._expected_tests)
        self._jobs = ScheduledJobs(
            ledger=ledger,
            build=build,
            recorded=lambda: self._recording.drain(RECORDED_FIRST_S),
            supervisor=supervisor,
        )
        self._views.client = lambda: self._jobs.client
        known = self._views.known
        alerting = Alerting(lambda: self._config, known=known, ledger=ledger)
        watcher = Watchers(alerting, meters, self._traced)
        self._views.pulls.watcher = watcher
        self._forwarder = Forwarder(
            ledger=ledger,
            gitlab_url=config.gitlab.url,
            watcher=watcher,
            supervisor=supervisor,
            process=self._role.service_pid,
            waiting=self._views.pulls.waiting,
        )
        self._filters = FilterWatch(lambda: self._config, reader)
        supervisor.on_error = ledger.report_damage
        supervisor.well(LEDGER)
        parts: dict[str, Run] = {
            "forwarder": self._forwarder.run,
            "alerting": lambda: self._after_begin(alerting.run),
            "watch": lambda: watch(ledger, self._look_again),
            "heartbeat": lambda: heartbeat(ledger, lambda: self._role.say(Said.ALIVE), self._begun.is_set),
            "filters": lambda: self._after_begin(self._filters.run),
            "indexing": lambda: self._after_begin(lambda: index(ledger)),
            "reporting": lambda: self._after_begin(lambda: supervisor.report(ledger)),
            "reload": self._reload_on_signal,
        }
        if db.is_shared:
            parts["sharing"] = self._forwarder.share
        return parts

    def _received(self, during: Interval) -> bool:
        """Whether webhooks were accepted all the while. A parent has the receiver's port from its own start on."""
        link = self._role.link
        if link is not None:
            return link.since <= during.start
        return received(self._config.ledger.location, during)

    def _deliveries_opened(self, deliveries: Iterable[Opened]) -> None:
        self._forwarder.opened(deliveries)

    def _recorders(self) -> dict[str, Run]:
        """The parts that take webhooks from the intake."""
        return {
            "recorder": lambda: self._after_begin(self._recording.run),
            "trimmer": lambda: self._after_begin(self._recording.trim),
            **self._recording.listeners(self._role.link, self._supervisor, self._deliveries_opened),
        }

    def _look_again(self) -> None:
        self._forwarder.look_again()
        self._recording.look_again()

    async def _begin(self, built: _Built) -> None:
        """Start the parts that need the ledger. Nothing may be recorded before it knows the destinations."""
        await when_writable(lambda: self._forwarder.apply(built.destinations))
        self._applied.set()
        await when_writable(lambda: note_start(self._ledger, self._received))
        if isinstance(built.config.ledger.location, PostgresUrl):
            await when_writable(lambda: self._ledger.note_worker(self._role.service_pid))
        self._filters.look(built.config)
        self._recording.begin()
        self._asking.cancel()
        self._role.say(Said.READY)
        log.info("ready", ledger=str(built.config.ledger.location))
        self._begun.set()
        try:
            self._jobs.apply(built.reconciling, lambda: self._config)
        except Exception as error:  # the receiver keeps running
            log.exception("scheduled jobs not started")
            self._supervisor.note("polling", words(error))
        jobs, backfills = self._jobs, self._views.backfills
        await when_writable(lambda: backfills.use(self._ledger, lambda: jobs.polling, lambda: self._config.reconcile))

    async def _begin_at_once(self, built: _Built) -> None:
        async with self._changing:
            await self._begin(built)

    async def _stand_by(self, built: _Built) -> None:
        """Deliver this copy's share, until no other copy is the worker."""
        log.info("standing by: the worker of another copy has the ledger")
        await when_writable(lambda: self._forwarder.apply(built.destinations, is_worker=False))
        self._applied.set()
        self._asking.cancel()
        self._role.say(Said.READY)
        await until_worker(self._config.ledger.location, self._ledger.become_worker, self._note_waiting)
        async with self._changing:
            await self._begin(await self._build(self._config))

    def _event_id(self, number: int) -> str:
        """An event's id, once the ledger is open."""
        return self._ids(number)

    def _opened(self, db: Database) -> None:
        self._db = db
        db.on_lost = _lost
        if isinstance(self._config.ledger.location, PostgresUrl):
            self._role.say(Said.READY)  # from now on it is started again, whatever becomes of the database

    def _wait(self) -> None:
        """Others have the ledger in such a way that this copy can only receive."""
        self._role.say(Said.READY)
        self._views.start()

    def _note_waiting(self, why: str | None) -> None:
        """Why the ledger can't be opened, or could not be taken over from another copy. One in PostgreSQL can be
        looked at meanwhile, or the dashboard says why not.
        """
        self._supervisor.note(LEDGER, why)
        if isinstance(self._config.ledger.location, PostgresUrl):
            self._views.start()

    async def _after_begin(self, run: Run) -> None:
        """Run a part after `_begin`: one of the worker's. Events recorded before the destinations are known would not
        be delivered.
        """
        await self._begun.wait()
        await run()

    async def _build(self, config: Config) -> _Built:
        """Build everything that a config needs. Nothing changes yet. Raises whatever its parts raise."""
        reconciling = self._jobs.prepare(config)
        return _Built(config, await self._forwarder.prepare(config.destinations), reconciling)

    async def _reload_on_signal(self) -> None:
        await self._applied.wait()
        while True:
            await self._hang_up.wait()
            self._hang_up.clear()
            async with self._changing:
                refusal = await self._reload()
            if refusal is not None:
                log.error("config not reloaded: the service keeps the old one", reason=refusal)
            self._role.say(Said.RELOADED if refusal is None else Said.REFUSED)
            if self._begun.is_set():
                with contextlib.suppress(LedgerUnavailable):
                    await self._ledger.note_reload(refusal)

    async def _reload(self) -> str | None:
        """Reload the config. Returns the error if that fails; then nothing has changed."""
        try:
            config = await asyncio.to_thread(self._read_again)
            fixed = fixed_keys(self._config, config, self._port)
            if fixed:
                return f"{', '.join(fixed)}: can't be changed while the service runs: restart it"
            built = await self._build(config)
        except (Exception, SystemExit) as error:
            return _refusal(error)
        try:
            await self._forwarder.apply(built.destinations, is_worker=self._begun.is_set())
        except Exception as error:  # whatever it is, the reload answers with it
            await built.destinations.discard()
            return _refusal(error)
        before, self._config = self._config, config
        if self._begun.is_set() and asks_differently(before, config):
            self._jobs.apply(built.reconciling, lambda: self._config)
        self._filters.look(config)
        log.info("config reloaded", destinations=[one.name for one in config.destinations])
        return None

    def _catch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        if self._role.is_alone:
            loop.add_signal_handler(signal.SIGINT, self._stop.set)
        loop.add_signal_handler(signal.SIGQUIT, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up.set)
        self._role.take_reloads()


def _lost() -> None:
    """Another copy may have the ledger by now: nothing more is sent or written."""
    log.error("the connection to PostgreSQL was lost: the worker ends, and starts again")
    os._exit(1)


async def _stop_part(what: str, end: Awaitable[object]) -> None:
    """Stop a part. Its errors must not affect the others."""
    try:
        await end
    except LedgerError as error:
        log.warning("part did not stop cleanly", part=what, error=str(error))
    except Exception:  # whatever it is, the other parts are stopped too
        log.exception("part did not stop cleanly", part=what)


def _refusal(error: BaseException) -> str:
    """Why a config is rejected. An unexpected error is logged with its traceback."""
    if isinstance(error, (ConfigError, LedgerError)):
        return writable(str(error))
    log.error("config not usable", exc_info=error)
    return _said(error)


def _said(error: BaseException) -> str:
    return f"can't be used: {words(error)}"
