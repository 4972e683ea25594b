"""The composition root: builds the parts of a running service, hands them to each other, and ends them in order."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable
from functools import partial

import msgspec
import structlog
import uvloop
from sqlite_utils import Database
from starlette.types import ASGIApp

from receiver.app import receiver_app, waiting_app
from reconciler.config.load import ConfigError, Mistake
from reconciler.config.models import Config
from reconciler.dashboard.app import dashboard_app
from reconciler.dashboard.stream import Stream
from reconciler.events import times
from reconciler.events.hook_tests import Expected
from reconciler.forwarding.forwarder import Forwarder, Prepared
from reconciler.ledger.coverage import downtime, runs
from reconciler.ledger.errors import LedgerDamaged, LedgerError, LedgerUnavailable
from reconciler.ledger.intake.writer import Writer
from reconciler.ledger.storage.connection import Ledger, connect, is_damage, may_come_right
from reconciler.ledger.storage.lock import only_service
from reconciler.ledger.upkeep import reloads
from reconciler.ledger.upkeep.parts import note_parts
from reconciler.ledger.upkeep.repair import RESTORE
from reconciler.metrics.collectors import LedgerCollector, PartsCollector
from reconciler.metrics.meters import Meters
from reconciler.polling.knowledge import SharedLook
from reconciler.polling.parts import Reconciling
from reconciler.service.admin import AdminServer, serve_metrics
from reconciler.service.alerting import Alerting
from reconciler.service.changes import asks_differently, fixed_keys
from reconciler.service.filters import FilterWatch
from reconciler.service.jobs import Jobs
from reconciler.service.loops import beat, index, wake, watch
from reconciler.service.mending import leave_note, mended
from reconciler.service.notify import notify
from reconciler.service.watchers import Watchers, on_committed, start_traces
from reconciler.service.web import DRAIN_S, Switch, WebServer
from reconciler.supervisor import Run, Supervisor, words, writable

RECEIVER_PAUSE_S = 1.0
"""The longest pause before the receiver starts again; what GitLab delivers meanwhile waits to be accepted."""
BEGIN_PAUSE_S = 1.0
OPEN_PATIENCE_S = 1.0
LEDGER, FILE = "ledger", "ledger file"

log = structlog.get_logger(__name__)


def serve(config: Config, read_again: Callable[[], Config]) -> None:
    """Run the service until SIGTERM or SIGINT. At SIGHUP the config is read again.

    A ledger that is known to be damaged is repaired before, where that can be done, behind a port that answers 503.

    Raises ServiceError or LedgerError where it can't start.
    """
    path = config.ledger.path
    beyond_repair = mended(config)
    try:
        with only_service(path, make=True), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_Service(config, read_again).run())
    except LedgerDamaged as error:
        leave_note(path, str(error))
        what = str(error).removeprefix(f"{path}: ")
        then = RESTORE if beyond_repair else "the next start tries to repair it"
        raise LedgerDamaged(f"{path}: {what}; {then}") from error


class _Built(msgspec.Struct, frozen=True):
    """Everything that a config asks for, built and not yet used."""

    config: Config
    receiver: ASGIApp
    destinations: Prepared
    reconciling: Reconciling | None


class _Service:
    def __init__(self, config: Config, read_again: Callable[[], Config]) -> None:
        self._config = config
        self._read_again = read_again
        self._stop = asyncio.Event()
        self._hang_up = asyncio.Event()
        self._answering = asyncio.Event()
        self._begun = asyncio.Event()
        self._supervisor = Supervisor()
        self._switch = Switch(waiting_app("the ledger can't be written yet"))
        where = config.receiver
        self._receiver = WebServer(
            self._switch, where.host, where.port, keys="receiver", probe="/healthz", keep_alive=where.keep_alive
        )
        self._expected_tests: set[Expected] = set()

    async def run(self) -> None:
        """From the first port that is taken to the last that is given back."""
        self._host, self._port = self._receiver.listen()
        self._catch_signals()
        supervisor = self._supervisor
        tasks = [supervisor.start("receiver", self._receive, longest_pause_s=RECEIVER_PAUSE_S)]
        stop = asyncio.create_task(self._stop.wait())
        opening = asyncio.create_task(self._opened())
        await asyncio.wait({opening, stop}, return_when=asyncio.FIRST_COMPLETED)
        if not opening.done():
            return
        db = opening.result()
        reader = connect(self._config.ledger.path, readonly=True)
        parts = self._compose(db, reader)
        try:
            built = await self._build(self._config)
        except (Exception, SystemExit) as error:  # `load` tries everything out: this is what it did not foresee
            if is_damage(error):
                raise LedgerDamaged(f"{self._config.ledger.path}: {words(error)}") from error
            raise ConfigError([Mistake("the config", 0, "", _said(error))]) from error
        tasks += [supervisor.start(name, run) for name, run in parts.items()]
        begin = asyncio.create_task(self._begin(built))
        await asyncio.wait({begin, stop}, return_when=asyncio.FIRST_COMPLETED)
        if not begin.done() or begin.exception() is None:
            await stop

        log.info("stopping")
        notify("STOPPING=1")
        self._jobs.stop()
        dashboard = None if self._admin is None else asyncio.create_task(self._admin.stop())
        await _ended("receiver", self._receiver.stop())
        await _ended("forwarder", self._forwarder.drain(DRAIN_S))
        if dashboard is not None:
            await _ended("dashboard", dashboard)
        for task in (*tasks, begin, stop):
            task.cancel()
        await asyncio.gather(*tasks, stop, return_exceptions=True)
        if self._begun.is_set():  # else the last sign of life is still the last life's
            await _ended("ledger", self._writer.run(_note_end))
        await self._writer.close()
        if self._traced is not None:
            await _ended("traces", asyncio.to_thread(self._traced.close))
        reader.close()
        db.close()
        with contextlib.suppress(asyncio.CancelledError):
            await begin  # raises why it could not start
        log.info("stopped")

    def _compose(self, db: Ledger, reader: Database) -> dict[str, Run]:
        """Make the parts and hand them to each other. Returns those that run for ever, by name."""
        config, supervisor = self._config, self._supervisor
        self._reader = reader
        self._writer = writer = Writer(db)
        self._jobs = Jobs(db=reader, writer=writer, expected_tests=self._expected_tests, supervisor=supervisor)
        meters = Meters()
        self._traced = start_traces(reader)
        known = SharedLook(lambda: self._config, db.files.trouble)
        alerting = Alerting(lambda: self._config, known=known, db=reader, writer=writer)
        watcher = Watchers(alerting, meters, self._traced)
        self._forwarder = Forwarder(
            db=reader, writer=writer, gitlab_url=config.gitlab.url, watcher=watcher, supervisor=supervisor
        )
        self._filters = FilterWatch(lambda: self._config, reader)
        writer.on_opened = alerting.on_opened = self._forwarder.opened
        writer.on_committed = on_committed(meters if config.metrics.port is not None else None, self._traced)
        writer.on_trouble = partial(supervisor.note, LEDGER)  # a part too: the one that all others need
        writer.on_damage = partial(supervisor.note, FILE)
        supervisor.on_error = writer.damaged
        supervisor.well(LEDGER)
        meters.registry.register(LedgerCollector(lambda: (self._config, self._jobs.client), known, db.files.trouble))
        meters.registry.register(PartsCollector(supervisor.parts))
        parts: dict[str, Run] = {
            "forwarder": self._forwarder.run,
            "alerting": lambda: self._once_begun(alerting.run),
            "watch": lambda: watch(writer, self._forwarder.look_again),
            "heartbeat": lambda: self._once_begun(lambda: beat(writer)),
            "filters": lambda: self._once_begun(self._filters.run),
            "indexing": lambda: index(writer),
            "reporting": lambda: supervisor.report(writer),
            "reload": self._reload_when_told,
        }
        self._admin = self._dashboard(config, known, db.files.trouble)
        if self._admin is not None:
            parts["dashboard"] = self._admin.run
        if (port := config.metrics.port) is not None:
            parts["metrics"] = lambda: serve_metrics(config.metrics.host, port, meters.registry)
        return parts

    async def _receive(self) -> None:
        """Answer, as soon as there is something to say: what comes in the first moments waits to be accepted."""
        await self._answering.wait()
        await self._receiver.run()

    async def _opened(self) -> Ledger:
        """The ledger, as soon as it can be opened. Raises LedgerError where waiting will not help."""
        while True:
            try:
                return await asyncio.to_thread(connect, self._config.ledger.path, patience_s=OPEN_PATIENCE_S)
            except LedgerUnavailable as error:
                if not may_come_right(error.__cause__):
                    raise
                if not self._answering.is_set():
                    log.error("the ledger can't be opened yet: deliveries are answered with 503", reason=str(error))
            self._answering.set()
            await asyncio.sleep(BEGIN_PAUSE_S)

    async def _once_there(self, do: Callable[[], Awaitable[object]]) -> None:
        """Do something as soon as the ledger can be written."""
        while True:
            try:
                await do()
            except LedgerDamaged:
                raise
            except LedgerUnavailable:  # the writer has said so
                self._answering.set()
                await asyncio.sleep(BEGIN_PAUSE_S)
            else:
                return

    async def _begin(self, built: _Built) -> None:
        """Start what needs the ledger: nothing may be recorded before the destinations are known to it."""
        await self._once_there(lambda: self._forwarder.apply(built.destinations))
        await self._once_there(lambda: wake(self._writer))
        self._filters.look(built.config)
        self._switch.app = built.receiver
        self._answering.set()
        log.info("listening", host=self._host, port=self._port, ledger=str(built.config.ledger.path))
        notify("READY=1")
        self._begun.set()
        try:
            self._jobs.apply(built.reconciling, lambda: self._config)
        except Exception as error:  # the receiver goes on
            log.exception("what is done by the clock can't be started")
            self._supervisor.note("polling", words(error))

    async def _once_begun(self, run: Run) -> None:
        """For a part that records, for which nobody would be told before the destinations are known; and for signs of
        life, which would hide how long the service was down.
        """
        await self._begun.wait()
        await run()

    async def _build(self, config: Config) -> _Built:
        """Build everything that a config asks for, and change nothing. Raises whatever its parts raise."""
        receiver = receiver_app(
            config.receiver,
            writer=self._writer,
            project_ids=runs.project_paths(self._reader),
            expected_tests=self._expected_tests,
        )
        reconciling = self._jobs.prepare(config)
        return _Built(config, receiver, await self._forwarder.prepare(config.destinations), reconciling)

    def _dashboard(self, config: Config, known: SharedLook, trouble: Callable[[], str | None]) -> AdminServer | None:
        if config.admin.port is None:
            return None
        stream = Stream(config.ledger.path, trouble)
        app = dashboard_app(lambda: self._config, known=known, stream=stream, trouble=trouble)
        return AdminServer(config.admin.host, config.admin.port, app, stream)

    async def _reload_when_told(self) -> None:
        await self._begun.wait()
        while True:
            await self._hang_up.wait()
            self._hang_up.clear()
            refusal = await self._reload()
            if refusal is not None:
                log.error("the config was not taken: the service goes on as before", why=refusal)
            with contextlib.suppress(LedgerUnavailable):
                await self._writer.run(partial(reloads.note_reload, error=refusal))

    async def _reload(self) -> str | None:
        """Read the config again and go by it. Returns why not, where not; then everything goes on as before."""
        try:
            config = await asyncio.to_thread(self._read_again)
            fixed = fixed_keys(self._config, config, self._port)
            if fixed:
                return f"{', '.join(fixed)}: can't be changed while the service runs; restart it"
            built = await self._build(config)
        except (Exception, SystemExit) as error:
            return _refusal(error)
        try:
            await self._forwarder.apply(built.destinations)
        except Exception as error:
            await built.destinations.discard()
            return _refusal(error)
        before, self._config = self._config, config
        if config.receiver != before.receiver:
            self._switch.app = built.receiver
        if asks_differently(before, config):
            self._jobs.apply(built.reconciling, lambda: self._config)
        self._filters.look(config)
        log.info("the config was read again", destinations=[one.name for one in config.destinations])
        return None

    def _catch_signals(self) -> None:
        def stop() -> None:
            if self._stop.is_set():  # the second: no more waiting for connections
                self._receiver.force()
            self._stop.set()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up.set)


async def _ended(what: str, end: Awaitable[object]) -> None:
    """End a part of the service; its trouble must not keep the others from ending well."""
    try:
        await end
    except LedgerError as error:
        log.warning("a part did not end as it should", part=what, error=str(error))
    except Exception:
        log.exception("a part did not end as it should", part=what)


def _note_end(db: Database) -> None:
    downtime.rest(db, times.now())
    note_parts(db, [])


def _refusal(error: BaseException) -> str:
    """Why a config is not taken. What nobody foresaw is logged with its traceback."""
    if isinstance(error, (ConfigError, LedgerError)):
        return writable(str(error))
    log.error("the config can't be used", exc_info=error)
    return _said(error)


def _said(error: BaseException) -> str:
    return f"can't be used: {words(error)}"
