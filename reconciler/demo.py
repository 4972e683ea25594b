"""The demo: a simulated GitLab, the real service as a process, and a destination that goes down and comes back.

No figure is known in advance: those at the end are read from the ledger and from what the destination accepted, and
are compared with what the simulator did.
"""

from __future__ import annotations

import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import yaml

from reconciler.ledger.errors import LedgerError
from reconciler.ledger.storage.connection import connect
from reconciler.ledger.views.figures import Figures, figures
from reconciler.location import Location, PostgresUrl
from reconciler.simulator.consumer import Consumer
from reconciler.simulator.hooks import Hook, webhook_bytes
from reconciler.simulator.ports import free_port
from reconciler.simulator.server import Simulator

PROJECTS = {42: "acme/website", 43: "acme/billing", 44: "acme/infra"}
EVENTS_A_SECOND = 25
PATIENCE_S = 60.0
"""How long to wait for a start, for another delivery, or for a stop (see `processes.STOP_S`)."""
LOOK_S = 0.5
"""How often to look whether the service still runs."""
TOKEN = "demo"  # noqa: S105 - it guards nothing


class DemoError(Exception):
    """The demo could not be shown. The message says why."""


class Result(msgspec.Struct, frozen=True):
    """What happened, by the simulator; what became of it, by the ledger and the destination."""

    happened: int
    acknowledged: int
    figures: Figures
    delivered: int
    lost: int

    @property
    def agrees(self) -> bool:
        """Everything that happened is one event in the ledger and was accepted by the destination."""
        told = self.figures.by_webhook + self.figures.repeats
        return (
            self.lost == 0
            and self.happened == self.figures.events == self.delivered
            and self.acknowledged <= told  # more: a kill took the answer, not the event
        )


class Demo:
    """One run in a folder of its own, with the ledger in it or in PostgreSQL. `say` is called with what happens."""

    def __init__(
        self, folder: Path, say: Callable[[str], None], *, url: PostgresUrl | None = None, dashboard: bool = False
    ) -> None:
        self._config = folder / "config.yaml"
        self._ledger: Location = url or folder / "ledger.db"
        self._log = folder / "service.log"
        self._say = say
        self._consumer = Consumer()
        self._gitlab = Simulator()
        self._service: subprocess.Popen[bytes] | None = None
        self._over = threading.Event()
        self._port = free_port()
        self._dashboard_port = free_port() if dashboard else None

    @contextmanager
    def run(self) -> Iterator[Result]:
        """Show everything, in about 20 seconds on an idle machine. Within the context everything is still there.

        Raises DemoError if the service does not start or stop.
        """
        with self._consumer, self._gitlab:
            try:
                yield self._show()
            finally:
                self._over.set()
                if self._service is not None:
                    self._service.kill()
                    self._service.wait()

    def keep(self, say: Callable[[str], None]) -> None:
        """Serve the dashboard until Ctrl-C, or until another signal asks for the end. `say` is given its URL.

        Raises DemoError if the service does not start, or ends by itself.
        """
        ended = threading.Event()
        with _on_signals(ended.set):
            self._start_service()
            say(f"http://127.0.0.1:{self._dashboard_port}")
            while not ended.wait(LOOK_S):
                if self._service is not None and self._service.poll() is not None and not ended.wait(LOOK_S):
                    raise self._failed("keep running")
            self._stop_service()

    def _show(self) -> Result:
        self._prepare()
        self._start_service()
        hooks = [
            self._gitlab.add_hook(project, f"http://127.0.0.1:{self._port}/webhooks/gitlab", token=TOKEN)
            for project in PROJECTS
        ]
        people = threading.Thread(target=self._work, args=(hooks,), daemon=True)
        people.start()
        self._say("people push, open issues and comment; 1 webhook in 10 is lost on its way, 1 in 10 sent twice")
        self._watch(3)
        self._consumer.stop()
        self._say("the destination goes down")
        self._watch(3)
        self._consumer.start()
        self._say("the destination is back")
        self._watch(2)
        self._kill_service()
        self._say("the service is killed (SIGKILL); GitLab gets no answer, does not retry, and disables the hook")
        self._watch(3)
        self._start_service()
        self._say("the service is started again")
        self._watch(3)
        self._over.set()
        people.join()
        for project in PROJECTS:
            self._gitlab.world.bulk_push(project, refs=5)
        self._say("one last push to five branches at once in each project, for which GitLab sends no webhook at all")
        self._gitlab.courier.settle()
        return self._settled()

    def _prepare(self) -> None:
        for number, path in PROJECTS.items():
            self._gitlab.world.add_project(number, path)
        config: dict[str, Any] = {
            "gitlab": {"url": self._gitlab.url, "token": self._gitlab.api.token},
            "projects": list(PROJECTS),
            "receiver": {"port": self._port, "hooks": [{"name": "default", "token": TOKEN}]},
            "ledger": self._ledger_section(),
            "reconcile": {"interval": "2s", "grace_period": "500ms", "overlap": "1m"},
            "destinations": [
                {
                    "name": "audit",
                    "url": self._consumer.url,
                    "allow_private": True,
                    "retry": {"initial_delay": "100ms", "max_delay": "500ms"},
                    "breaker": {"max_delay": "500ms"},
                }
            ],
        }
        if self._dashboard_port is not None:
            config["admin"] = {"port": self._dashboard_port}
        self._config.write_text(yaml.safe_dump(config), encoding="utf-8")

    def _work(self, hooks: list[Hook]) -> None:
        """Things happen, and webhooks go astray."""
        for hook in hooks:
            hook.first_pause_s = 2.0  # GitLab's minute, shortened
        dice = self._gitlab.world.random
        while not self._over.wait(1 / EVENTS_A_SECOND):
            project = dice.choice(list(PROJECTS))
            hook = hooks[list(PROJECTS).index(project)]
            hook.faults.drop, hook.faults.double = dice.choice([(1, 0), (0, 1), *[(0, 0)] * 8])
            self._gitlab.world.anything(project)

    def _start_service(self) -> None:
        """Start it, and wait until its ports are open."""
        command = [sys.executable, "-m", "reconciler", "serve", "--config", str(self._config)]
        with self._log.open("ab") as log:
            self._service = subprocess.Popen(command, stderr=log)  # noqa: S603 - our own command
        deadline = time.monotonic() + PATIENCE_S
        while self._service.poll() is None and time.monotonic() < deadline:
            if all(_is_open(port) for port in (self._port, self._dashboard_port) if port is not None):
                return
            time.sleep(0.05)
        raise self._failed("start")

    def _kill_service(self) -> None:
        if self._service is not None:
            self._service.kill()
            self._service.wait()

    def _stop_service(self) -> None:
        if self._service is not None:
            self._service.terminate()
            try:
                self._service.wait(timeout=PATIENCE_S)
            except subprocess.TimeoutExpired:
                raise self._failed("stop") from None

    def _failed(self, what: str) -> DemoError:
        return DemoError(f"the service did not {what}:\n" + self._log.read_text(encoding="utf-8"))

    def _watch(self, seconds: int) -> None:
        for _ in range(seconds):
            time.sleep(1)
            self._say_figures()

    def _say_figures(self) -> None:
        now = self._figures()
        happened, accepted = len(self._gitlab.world.happenings), len({r.event_id for r in self._consumer.accepted})
        self._say(f"    happened {happened:>4}   in the ledger {now.events:>4}   delivered {accepted:>4}")

    def _settled(self) -> Result:
        """Wait until everything that happened was delivered, or until that is not to be expected any more."""
        happened = len(self._gitlab.world.happenings)
        if not self._consumer.wait_for(
            lambda c: len({r.event_id for r in c.accepted}) >= happened, timeout_s=PATIENCE_S
        ):
            self._say(f"nothing more was delivered for {PATIENCE_S:.0f} seconds")
        self._stop_service()  # it ends what is in flight, so that the ledger's figures are final
        self._say_figures()
        delivered = {r.event_id for r in self._consumer.accepted}
        now = self._figures()
        lost = self._lost(now.delivered_records)
        acknowledged = sum(hook.accepted for hook in self._gitlab.courier.hooks.values())
        return Result(happened, acknowledged, now, len(delivered), lost)

    def _lost(self, delivered_records: frozenset[str]) -> int:
        """How much of what happened the destination took neither as a webhook's body nor as a record."""
        bodies = {request.body for request in self._consumer.accepted}
        return sum(
            (happening.record is None or str(happening.record["id"]) not in delivered_records)
            and (happening.webhook is None or webhook_bytes(happening.webhook) not in bodies)
            for happening in self._gitlab.world.happenings
        )

    def _ledger_section(self) -> dict[str, str]:
        location = self._ledger
        return {"url": location.value} if isinstance(location, PostgresUrl) else {"path": location.name}

    def _figures(self) -> Figures:
        try:
            with closing(connect(self._ledger, readonly=True)) as db:
                return figures(db)
        except (LedgerError, sqlite3.Error):
            return Figures()


def _is_open(port: int) -> bool:
    with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def _on_signals(act: Callable[[], None]) -> Iterator[None]:
    """Call this at Ctrl-C, at SIGTERM, and when the terminal is closed, instead of ending at once."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, lambda *_: act()) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
