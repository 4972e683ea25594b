"""The composition root: builds the parts of a running service, hands them to each other, and ends them in order."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import structlog
import uvicorn
import uvloop
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.interval import IntervalTrigger
from sqlite_utils import Database
from starlette.types import ASGIApp

from receiver.app import receiver_app
from reconciler.config.models import Config
from reconciler.events import times
from reconciler.forwarding.forwarder import Forwarder
from reconciler.ledger import downtime, queue, runs
from reconciler.ledger.connection import connect, data_version, only_service
from reconciler.ledger.errors import LedgerUnavailable
from reconciler.ledger.gaps import gaps
from reconciler.ledger.writer import Writer
from reconciler.metrics import serve_metrics, state
from reconciler.reconcile.parts import Reconciling, reconciling
from reconciler.reconcile.rounds import Rounds, expected
from reconciler.sources.table import keeps

DRAIN_S = 10.0
"""How long a stop waits for what is in flight. What is not done then is done after the next start."""
BEAT_S = 10.0
"""How often the service leaves a sign of life in the ledger."""
LOOK_S = 0.2
"""How often the ledger is asked, at the cost of microseconds, whether another process changed it."""

log = structlog.get_logger(__name__)


class ServiceError(Exception):
    """The service can't start. The message says why."""


def serve(config: Config) -> None:
    """Run the service until SIGTERM or SIGINT.

    Raises ServiceError or LedgerError where it can't start.
    """
    with only_service(config.ledger.path), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_Service(config).run())


class _Server(uvicorn.Server):
    """uvicorn, leaving signals to us: the receiver is only the first thing to stop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Service:
    def __init__(self, config: Config) -> None:
        self._config = config
        self._stop = asyncio.Event()

    async def run(self) -> None:
        config = self._config
        listener = _listen(config.receiver.host, config.receiver.port)
        db = connect(config.ledger.path)
        writer = Writer(db)
        reader = connect(config.ledger.path, readonly=True)
        wanted = [(destination.name, destination.ordering) for destination in config.destinations]
        ids = await writer.run(lambda db: queue.sync_destinations(db, wanted))
        forwarder = Forwarder(config.destinations, ids, db=reader, writer=writer, gitlab_url=config.gitlab.url)
        writer.on_opened = forwarder.opened
        expected_tests: set[int] = set()
        app = receiver_app(
            config.receiver,
            writer=writer,
            project_ids=runs.project_paths(reader),
            expected_tests=expected_tests,
        )
        server = web_server(app)
        await _wake(writer)
        parts = self._reconciling(reader, writer, expected_tests)
        scheduler = None
        if parts is not None:
            _serve_metrics(config, parts)
            scheduler = schedule(parts.rounds, config)
            hourly, first = IntervalTrigger(hours=1, timezone=UTC), datetime.now(UTC) + timedelta(minutes=1)
            scheduler.add_job(warn_of_gaps, hourly, args=[config, reader], id="gaps", next_run_time=first)

        self._catch_signals(server)
        tasks = [
            asyncio.create_task(server.serve(sockets=[listener]), name="receiver"),
            asyncio.create_task(forwarder.run(), name="forwarder"),
            asyncio.create_task(_watch(writer, forwarder), name="watch"),
            asyncio.create_task(_beat(writer), name="heartbeat"),
            asyncio.create_task(self._stop.wait(), name="stop"),
        ]
        host, port = listener.getsockname()[:2]
        log.info("listening", host=host, port=port, ledger=str(config.ledger.path))
        healing = asyncio.create_task(parts.rounds.heal()) if parts is not None else None
        ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)

        log.info("stopping")
        server.should_exit = True
        if scheduler is not None:
            scheduler.shutdown(wait=False)
        if parts is not None:
            parts.stop()
        if healing is not None:
            healing.cancel()
        await asyncio.wait(tasks[:1])
        forwarder.stop()
        await asyncio.wait(tasks[1:2], timeout=DRAIN_S)
        await forwarder.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.suppress(LedgerUnavailable):
            await writer.run(lambda db: downtime.rest(db, times.now()))
        await writer.close()
        reader.close()
        db.close()
        for task in ended:
            if task.get_name() != "stop" and not task.cancelled():
                task.result()  # raises what ended it
                raise ServiceError(f"the {task.get_name()} ended by itself")
        log.info("stopped")

    def _reconciling(self, db: Database, writer: Writer, expected_tests: set[int]) -> Reconciling | None:
        config = self._config
        watches = config.projects or config.groups
        if config.gitlab.token is None or not watches:
            log.warning(
                "nothing is reconciled: webhooks are recorded and forwarded, but what they miss is not looked for",
                why="no gitlab.token" if config.gitlab.token is None else "no projects",
            )
            return None
        return reconciling(config, db=db, writer=writer, expected_tests=expected_tests)

    def _catch_signals(self, server: uvicorn.Server) -> None:
        def stop() -> None:
            if self._stop.is_set():  # a second signal: no more waiting for open connections
                server.force_exit = True
            self._stop.set()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)


def _listen(host: str, port: int) -> socket.socket:
    """Bind first: a port that is taken is a user's mistake and deserves a clear answer."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ServiceError(f"can't listen on {host}:{port}: {reason}; see receiver.host and receiver.port") from None


def web_server(app: ASGIApp) -> uvicorn.Server:
    """The server that the receiver runs on, as it is set up for speed: no access log, no proxies, no lifespan."""
    return _Server(
        uvicorn.Config(
            app,
            interface="asgi3",
            http="httptools",
            proxy_headers=False,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=round(DRAIN_S),
        )
    )


def schedule(rounds: Rounds, config: Config) -> AsyncIOScheduler:
    """One job: a turn in every interval, which spreads its polls over it."""
    scheduler = AsyncIOScheduler(timezone=UTC)
    seconds = max(1, round(config.reconcile.interval / 1000))
    trigger = IntervalTrigger(seconds=seconds, timezone=UTC)
    scheduler.add_job(rounds.turn, trigger, id="turn", max_instances=1, coalesce=True, misfire_grace_time=None)
    scheduler.start()
    return scheduler


def _serve_metrics(config: Config, parts: Reconciling) -> None:
    try:
        serve_metrics(config, parts.client)
    except OSError as error:
        where = f"{config.metrics.host}:{config.metrics.port}"
        raise ServiceError(f"can't listen on {where}: {error.strerror}; see metrics.port") from None


def warn_of_gaps(config: Config, db: Database) -> None:
    """Say which gaps GitLab is about to forget."""
    now = times.now()
    for gap in gaps(db, keeps=keeps(), expected=expected(config, now), now=now):
        if state(gap, now) == "expiring" and gap.closable_until is not None:
            log.warning(
                "GitLab is about to forget a gap",
                project_id=gap.project_id,
                source=gap.source,
                since=times.iso(gap.during.start),
                until=times.iso(gap.during.end),
                why=gap.why,
                closable_until=times.iso(gap.closable_until),
            )


async def _wake(writer: Writer) -> None:
    found = await writer.run(lambda db: downtime.wake(db, times.now()))
    if found is not None:
        start, end = times.iso(found.during.start), times.iso(found.during.end)
        log.info("the service was down", since=start, until=end, how=found.how)


async def _beat(writer: Writer) -> None:
    """Leave signs of life, so that the next start knows since when nothing was received."""
    while True:
        await asyncio.sleep(BEAT_S)
        with contextlib.suppress(LedgerUnavailable):
            await writer.run(lambda db: downtime.beat(db, times.now()))


async def _watch(writer: Writer, forwarder: Forwarder) -> None:
    """Notice what other processes (backfill, replay) commit to the ledger.

    Asked of the writer's own connection, whose number does not change with its own commits.
    """
    known = -1
    while True:
        await asyncio.sleep(LOOK_S)
        try:
            version = await writer.run(data_version)
        except LedgerUnavailable:
            continue
        if version != known:
            known = version
            forwarder.look_again()
