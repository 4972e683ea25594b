"""The composition root: builds the parts of a running service, hands them to each other, and ends them in order."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable
from functools import partial

import structlog
import uvicorn
import uvloop
from sqlite_utils import Database
from starlette.types import ASGIApp

from receiver.app import receiver_app
from reconciler.config.load import ConfigError
from reconciler.config.models import Config
from reconciler.dashboard.app import dashboard_app
from reconciler.dashboard.stream import Stream
from reconciler.events import times
from reconciler.forwarding.forwarder import Forwarder
from reconciler.ledger import downtime, reloads, runs
from reconciler.ledger.connection import connect, only_service
from reconciler.ledger.errors import LedgerUnavailable
from reconciler.ledger.gaps import Gap, gaps
from reconciler.ledger.writer import Writer
from reconciler.metrics import Meters, serve_metrics
from reconciler.reconcile.rounds import expected
from reconciler.service.admin import AdminServer
from reconciler.service.alerting import Alerting
from reconciler.service.jobs import Jobs
from reconciler.service.loops import beat, index, wake, watch
from reconciler.service.notify import notify
from reconciler.service.watchers import Watchers, on_committed, start_traces
from reconciler.service.web import DRAIN_S, ServiceError, Switch, listen, web_server
from reconciler.sources.table import keeps

log = structlog.get_logger(__name__)


def serve(config: Config, read_again: Callable[[], Config]) -> None:
    """Run the service until SIGTERM or SIGINT. At SIGHUP the config is read again.

    Raises ServiceError or LedgerError where it can't start.
    """
    with only_service(config.ledger.path), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_Service(config, read_again).run())


class _Service:
    def __init__(self, config: Config, read_again: Callable[[], Config]) -> None:
        self._config = config
        self._read_again = read_again
        self._stop = asyncio.Event()
        self._hang_up = asyncio.Event()
        self._port = 0
        self._server: uvicorn.Server | None = None

    async def run(self) -> None:
        config = self._config
        self._catch_signals()
        listener = listen(config.receiver.host, config.receiver.port)
        db = connect(config.ledger.path)
        self._writer = writer = Writer(db)
        self._reader = reader = connect(config.ledger.path, readonly=True)
        self._expected_tests: set[int] = set()
        self._jobs = Jobs(db=reader, writer=writer, expected_tests=self._expected_tests)
        meters, traced = Meters(), start_traces(reader)
        alerting = Alerting(lambda: self._config, db=reader, writer=writer)
        self._forwarder = forwarder = Forwarder(
            db=reader, writer=writer, gitlab_url=config.gitlab.url, watcher=Watchers(alerting, meters, traced)
        )
        writer.on_opened = alerting.on_opened = forwarder.opened
        writer.on_committed = on_committed(meters if config.metrics.port is not None else None, traced)
        self._app = Switch(self._receiver(config))
        self._server = server = web_server(self._app)
        self._serve_metrics(config, meters)
        admin = self._admin(config)
        await forwarder.apply(await forwarder.prepare(config.destinations))
        await wake(writer)

        tasks = [
            asyncio.create_task(server.serve(sockets=[listener]), name="receiver"),
            asyncio.create_task(forwarder.run(), name="forwarder"),
            asyncio.create_task(alerting.run(), name="alerting"),
            asyncio.create_task(watch(writer, forwarder.look_again), name="watch"),
            asyncio.create_task(beat(writer), name="heartbeat"),
            asyncio.create_task(index(writer), name="indexing"),
            asyncio.create_task(admin.run(), name="dashboard"),
            asyncio.create_task(self._reload_when_told(), name="reload"),
            asyncio.create_task(self._stop.wait(), name="stop"),
        ]
        host, self._port = listener.getsockname()[:2]
        log.info("listening", host=host, port=self._port, ledger=str(config.ledger.path))
        notify("READY=1")
        self._jobs.apply(config, lambda: self._config)
        ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)

        log.info("stopping")
        notify("STOPPING=1")
        server.should_exit = True
        admin.stop()
        self._jobs.stop()
        await asyncio.wait(tasks[:1])
        await forwarder.drain(DRAIN_S)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.suppress(LedgerUnavailable):
            await writer.run(lambda db: downtime.rest(db, times.now()))
        await writer.close()
        if traced is not None:
            await asyncio.to_thread(traced.close)
        reader.close()
        db.close()
        for task in ended:
            if task.get_name() != "stop" and not task.cancelled():
                task.result()  # raises what ended it
                raise ServiceError(f"the {task.get_name()} ended by itself")
        log.info("stopped")

    def _receiver(self, config: Config) -> ASGIApp:
        return receiver_app(
            config.receiver,
            writer=self._writer,
            project_ids=runs.project_paths(self._reader),
            expected_tests=self._expected_tests,
        )

    def _admin(self, config: Config) -> AdminServer:
        def find_gaps(db: Database, config: Config) -> list[Gap]:
            now = times.now()
            return gaps(db, keeps=keeps(), expected=expected(config, now), now=now)

        stream = Stream(config.ledger.path)
        app = dashboard_app(lambda: self._config, find_gaps=find_gaps, stream=stream)
        return AdminServer(config.admin, app, stream)

    def _serve_metrics(self, config: Config, meters: Meters) -> None:
        host, port = config.metrics.host, config.metrics.port
        if port is None:
            return
        try:
            serve_metrics(host, port, meters, lambda: (self._config, self._jobs.client))
        except OSError as error:
            raise ServiceError(f"can't listen on {host}:{port}: {error.strerror}; see metrics.port") from None

    async def _reload_when_told(self) -> None:
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
        except ConfigError as error:
            return str(error)
        fixed = fixed_keys(self._config, config, self._port)
        if fixed:
            return f"{', '.join(fixed)}: can't be changed while the service runs; restart it"
        try:
            await self._forwarder.apply(await self._forwarder.prepare(config.destinations))
        except LedgerUnavailable as error:
            return str(error)
        before, self._config = self._config, config
        if config.receiver != before.receiver:
            self._app.app = self._receiver(config)
        if asks_differently(before, config):
            self._jobs.apply(config, lambda: self._config)
        log.info("the config was read again", destinations=[one.name for one in config.destinations])
        return None

    def _catch_signals(self) -> None:
        def stop() -> None:
            if self._stop.is_set() and self._server is not None:  # the second: no more waiting for connections
                self._server.force_exit = True
            self._stop.set()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up.set)


def fixed_keys(old: Config, new: Config, port: int) -> list[str]:
    """The keys that changed and can't while the service runs; `port` is the one that it listens on."""
    keys: tuple[str, ...] = (
        "receiver.host",
        "receiver.port",
        "ledger.path",
        "metrics.host",
        "metrics.port",
        "gitlab.url",
    )
    keys += ("admin.host", "admin.port", "admin.token")
    changed = [key for key in keys if _value(old, key) != _value(new, key)]
    return [key for key in changed if key != "receiver.port" or new.receiver.port != port]


def asks_differently(old: Config, new: Config) -> bool:
    """Whether the new config asks GitLab for something else, or in another way."""
    return any(
        getattr(old, section) != getattr(new, section)
        for section in ("gitlab", "projects", "groups", "reconcile", "receiver")
    )


def _value(config: Config, key: str) -> object:
    section, name = key.split(".")
    return getattr(getattr(config, section), name)
