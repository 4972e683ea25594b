"""The receiver's process: it writes webhooks to the intake, and does nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable
from functools import partial

import structlog
import uvloop
from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp

from receiver.app import PROOF_S, receiver_app
from reconciler.config.load import ConfigError
from reconciler.config.models import Config
from reconciler.ledger.errors import IntakeUnavailable, LedgerUnavailable
from reconciler.ledger.intake import places
from reconciler.ledger.reminder import Reminder
from reconciler.metrics.collectors import PartsCollector
from reconciler.service.admin import serve_metrics
from reconciler.service.changes import fixed_keys
from reconciler.service.notify import notify
from reconciler.service.receiver_counts import ReceiverCounts
from reconciler.service.role import Role, Said
from reconciler.service.web import Switch, WebServer
from reconciler.supervisor import Supervisor, words

RECEIVER_PAUSE_S = 1.0
"""The longest pause before the receiver restarts. Connections meanwhile wait to be accepted."""
ALIVE_S = 5.0
HANGS_S = 10.0
"""A write to the intake that takes longer hangs: nobody is answered meanwhile."""
_HANGS = f"a write to the intake has not ended for {HANGS_S:.0f} s: its disk hangs, or is far too slow"
LOOK_S = 1.0
HEARTBEAT_S = 10.0
"""How often the receiver notes that it is alive."""

log = structlog.get_logger(__name__)


def serve(config: Config, read_again: Callable[[], Config], role: Role) -> None:
    """Receive webhooks until SIGTERM. SIGHUP reloads the config.

    Raises ServiceError if the port can't be bound.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_Receiving(config, read_again, role).run())


class _Receiving:
    def __init__(self, config: Config, read_again: Callable[[], Config], role: Role) -> None:
        self._config = config
        self._read_again = read_again
        self._role = role
        self._stop = asyncio.Event()
        self._hang_up = asyncio.Event()
        self._supervisor = Supervisor()
        service = os.getpid() if role.is_alone else role.service_pid
        self._register = places.register(config.ledger.location, service=service)
        self._register_reminder = Reminder()
        self._trouble: str | None = None
        """Why webhooks can't be appended."""
        self._hangs = False
        self._changed = asyncio.Event()
        self._counts = ReceiverCounts() if role.link is None else role.link.counts

    async def run(self) -> None:
        """Run from binding the port to closing it."""
        config, where = self._config, self._config.receiver
        self._intake = places.appender(
            config.ledger.location,
            appended=(lambda: None) if self._role.link is None else self._role.link.wake,
            trouble=self._note_trouble,
        )
        self._note_trouble(None)  # that of an earlier process
        self._switch = Switch(self._app(config))
        self._server = WebServer(
            self._switch,
            where.host,
            where.port,
            keys="receiver",
            probe="/healthz",
            keep_alive=where.keep_alive,
            listener=self._role.listener,
        )
        host, self._port = self._server.listen()
        self._catch_signals()
        start = self._supervisor.start
        tasks = [
            start("receiver", self._server.run, longest_pause_s=RECEIVER_PAUSE_S),
            start("alive", self._stay_alive),
            start("disk", self._watch_disk),
            start("reload", self._reload_on_signal),
        ]
        if self._role.is_alone and (port := config.metrics.port) is not None:
            tasks.append(start("metrics", lambda: self._serve_metrics(config.metrics.host, port)))
        await self._try_to_write()  # it opens the intake; what fails is answered with 503
        await self._note_alive()
        self._role.say(Said.READY)
        tasks.append(start("heartbeat", self._heartbeat))
        log.info("listening", host=host, port=self._port, intake=places.shown(config.ledger.location))
        await self._stop.wait()
        log.info("receiver stopping")
        if self._role.is_alone:
            notify("STOPPING=1")
        await self._server.stop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._intake.close()
        await asyncio.to_thread(self._register.close)
        log.info("receiver stopped")

    def _app(self, config: Config) -> ASGIApp:
        return receiver_app(config.receiver, intake=self._intake, observer=self._counts)

    def _note_trouble(self, why: str | None) -> None:
        self._trouble = why
        self._show_trouble()

    def _show_trouble(self) -> None:
        """Show it to the worker, in the receiver's own metrics, and in the register of receivers."""
        why = _HANGS if self._hangs else self._trouble
        self._counts.trouble = why
        self._supervisor.note("intake", why)
        self._changed.set()

    async def _watch_disk(self) -> None:
        """A disk that hangs gives no error: say that nothing can be acknowledged while a write does not end."""
        while True:
            await asyncio.sleep(LOOK_S)
            since = self._intake.busy_since
            hangs = since is not None and time.monotonic() - since > HANGS_S
            if hangs == self._hangs:
                continue
            self._hangs = hangs
            self._show_trouble()
            if hangs:
                log.error("webhooks can't be appended to the intake", reason=_HANGS)
            else:
                log.info("the intake's disk answers again")

    async def _serve_metrics(self, host: str, port: int) -> None:
        registry = CollectorRegistry()
        registry.register(self._counts)
        registry.register(PartsCollector(self._supervisor.parts))
        await serve_metrics(host, port, registry)

    async def _stay_alive(self) -> None:
        """Tell the parent that the event loop runs."""
        while True:
            self._role.say(Said.ALIVE)
            await asyncio.sleep(ALIVE_S)

    async def _heartbeat(self) -> None:
        """Note that the receiver is alive, and at once what keeps it from accepting webhooks, or no longer does."""
        while True:
            try:
                async with asyncio.timeout(HEARTBEAT_S):
                    await self._changed.wait()
            except TimeoutError:
                await self._try_to_write()
            await self._note_alive()

    async def _try_to_write(self) -> None:
        """What fails, hangs or works again is seen before a webhook comes."""
        with contextlib.suppress(IntakeUnavailable, TimeoutError):  # it is logged
            async with asyncio.timeout(PROOF_S):
                await self._intake.check_writable()

    async def _note_alive(self) -> None:
        self._changed.clear()
        await self._note(partial(self._register.alive, self._counts.trouble))

    async def _note(self, note: Callable[[], None]) -> None:
        """Note something in the register of receivers, in a thread: its disk or its server may be slow."""
        error: str | None = None
        try:
            await asyncio.to_thread(note)
        except (OSError, LedgerUnavailable) as failed:
            error = words(failed)
        if self._register_reminder.is_due(error) and error is not None:
            log.warning("the receiver can't note that it is alive", reason=error)

    async def _reload_on_signal(self) -> None:
        while True:
            await self._hang_up.wait()
            self._hang_up.clear()
            refusal = await self._reload()
            if refusal is not None:
                log.error("config not reloaded: the receiver keeps the old one", reason=refusal)
            await self._note(partial(self._register.reloaded, refusal))
            self._role.say(Said.RELOADED if refusal is None else Said.REFUSED)

    async def _reload(self) -> str | None:
        """Read the config again. Returns why it is refused."""
        try:
            config = await asyncio.to_thread(self._read_again)
            fixed = fixed_keys(self._config, config, self._port)
            if fixed:
                return f"{', '.join(fixed)}: can't be changed while the service runs: restart it"
            app = self._app(config)
        except ConfigError as error:
            return str(error)
        except (Exception, SystemExit) as error:
            log.error("config not usable", exc_info=error)
            return words(error)
        if config.receiver != self._config.receiver:
            self._switch.app = app
        self._config = config
        log.debug("receiver reloaded")
        return None

    def _catch_signals(self) -> None:
        loop = asyncio.get_running_loop()

        def stop() -> None:
            if self._stop.is_set() and self._role.is_alone:  # the second signal: don't wait for connections
                self._server.force()
            self._stop.set()

        def stop_now() -> None:
            self._stop.set()
            self._server.force()

        loop.add_signal_handler(signal.SIGTERM, stop)
        if self._role.is_alone:
            loop.add_signal_handler(signal.SIGINT, stop)
        loop.add_signal_handler(signal.SIGQUIT, stop_now)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up.set)
        self._role.take_reloads()
