"""Several copies of the service on one ledger in PostgreSQL, under load, behind a load balancer."""

from __future__ import annotations

import json
import random
import threading
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import psycopg

from reconciler.ledger.storage import advisory
from reconciler.location import PostgresUrl
from reconciler.simulator.consumer import Consumer
from reconciler.simulator.ports import free_port
from reconciler.simulator.server import Simulator
from tests.support.balancer import Balancer
from tests.support.service import TOKEN, Service, until
from tests.support.wire import Wire

POSTERS = 4
PAUSE_S, LONG_PAUSE_S = 0.1, 1.0
"""Of a poster, between two webhooks; the long one while MOST_BEHIND events are not delivered yet."""
MOST_BEHIND = 20
PROJECTS = 6
ORDERINGS = ("project", "object", "none")
"""A destination for each."""

_HOLDERS = f"""
    SELECT a.client_port FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
     WHERE l.locktype = 'advisory' AND l.granted AND l.classid = {advisory.SERVICE}
"""


class Copy:
    """A copy of the service, with wires of its own to the database's servers."""

    def __init__(self, service: Service, wires: Sequence[Wire]) -> None:
        self.service = service
        self.wires = wires

    @property
    def far_ports(self) -> set[int]:
        """Where the database sees its connections come from."""
        return {port for wire in self.wires for port in wire.far_ports}

    @property
    def works(self) -> list[int]:
        """The processes of the copies that work, as its `status` shows it."""
        status = self.service.run("status", "--json")
        assert status.returncode == 0, status.stderr
        return [one["process"] for one in json.loads(status.stdout)["copies"] if one["works"]]

    def start(self) -> None:
        """Start it, and wait until it accepts webhooks."""
        self.service.launch()
        self.service.wait_for_log("listening")


class Load:
    """People at work in GitLab, whose webhooks are posted once each, from several threads.

    While the copies do not keep up, less happens: all of it is delivered at the end, however slow the machine is.
    """

    def __init__(self, gitlab: Simulator, consumer: Consumer, balancer: Balancer) -> None:
        self.acknowledged: dict[str, str] = {}
        """The body of each webhook, by its idempotency key."""
        self.refused: list[str] = []
        """What became of each webhook that was not acknowledged."""
        self._gitlab = gitlab
        self._consumer = consumer
        self._balancer = balancer
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(POSTERS)
        self._posters = [self._pool.submit(self._post_all, random.Random(number)) for number in range(POSTERS)]

    def stop(self) -> None:
        self._over.set()
        for poster in self._posters:
            poster.result(timeout=60)
        self._pool.shutdown()

    def _post_all(self, dice: random.Random) -> None:
        # A connection a delivery, as GitLab has it.
        with httpx.Client(timeout=5, limits=httpx.Limits(max_keepalive_connections=0)) as client:
            while not self._over.wait(self._pause_s()):
                if why := self._post(client, dice):
                    self.refused.append(why)

    def _pause_s(self) -> float:
        behind = len(self._gitlab.world.happenings) - len(self._consumer.accepted) / len(ORDERINGS)
        return PAUSE_S if behind < MOST_BEHIND else LONG_PAUSE_S

    def _post(self, client: httpx.Client, dice: random.Random) -> str | None:
        """Post a webhook. Returns why it was not acknowledged."""
        with self._lock:
            happening = self._gitlab.world.anything(dice.choice(list(self._gitlab.world.projects)))
        key, body = str(uuid.uuid4()), json.dumps(happening.webhook)
        headers = {"X-Gitlab-Token": TOKEN, "Idempotency-Key": key, "Content-Type": "application/json"}
        try:
            answer = client.post(
                f"http://127.0.0.1:{self._balancer.port}/webhooks/gitlab", content=body, headers=headers
            )
        except httpx.HTTPError as error:
            return repr(error)
        if answer.status_code != 200:
            return f"{answer.status_code} {answer.text}"
        self.acknowledged[key] = body
        return None


class Copies:
    """Copies that run, and what is around them."""

    def __init__(
        self,
        copies: Sequence[Copy],
        *,
        gitlab: Simulator,
        consumer: Consumer,
        balancer: Balancer,
        database: PostgresUrl,
    ) -> None:
        self.all = list(copies)
        self.gitlab = gitlab
        self.consumer = consumer
        self.balancer = balancer
        self.database = database
        """Without a wire between."""
        self.load = Load(gitlab, consumer, balancer)

    def work(self) -> None:
        """Wait until webhooks that are acknowledged from now on have been delivered to each destination."""
        before, seen = set(self.load.acknowledged), len(self.consumer.accepted)

        def delivered(consumer: Consumer) -> bool:
            found = {body for key, body in self.load.acknowledged.copy().items() if key not in before}
            bodies = {(one.path, one.body.decode()) for one in consumer.accepted[seen:]}
            return any(all((f"/{name}", body) in bodies for name in ORDERINGS) for body in found)

        assert self.consumer.wait_for(delivered, 60), "nothing more is delivered"

    def holder(self) -> Copy:
        """The copy that works, once there is one."""
        found: list[Copy] = []

        def is_found() -> bool:
            with psycopg.connect(self.database.value) as server:
                ports = {port for (port,) in server.execute(_HOLDERS)}
            found[:] = [copy for copy in self.all if copy.far_ports & ports]
            return bool(found)

        until(is_found)
        return found[0]

    def ready(self, count: int) -> None:
        """Wait until so many copies accept webhooks."""
        assert self.balancer.wait_for(lambda ready: len(ready) >= count, 60), "copies are not ready"


@contextmanager
def running(
    folder: Path, servers: Sequence[int], database: PostgresUrl, *, count: int = 3, **receiver: Any
) -> Iterator[Copies]:
    """Copies under load, until the block ends. `database` is reached without a wire; `servers` are the ports of its
    servers, for wires in between.
    """
    with ExitStack() as stack:
        gitlab, consumer = stack.enter_context(Simulator()), stack.enter_context(Consumer())
        for number in range(1, PROJECTS + 1):
            gitlab.world.add_project(number, f"group/project-{number}")
        made = []
        for number in range(count):
            wires = [stack.enter_context(Wire(server)) for server in servers]
            own = folder / f"copy-{number}"
            own.mkdir()
            ledger = _through(database, wires) if wires else database.value
            service = Service(own, _config(gitlab, consumer, ledger, receiver))
            service.port = service.config["receiver"]["port"]
            stack.callback(_end, service)
            made.append(Copy(service, wires))
        balancer = stack.enter_context(Balancer([copy.service.port for copy in made]))
        for copy in made:
            copy.service.launch()
        assert balancer.wait_for(lambda ready: len(ready) == count, 60), "copies are not ready"
        copies = Copies(made, gitlab=gitlab, consumer=consumer, balancer=balancer, database=database)
        try:
            yield copies
        finally:
            copies.load.stop()


def _config(gitlab: Simulator, consumer: Consumer, ledger: str, receiver: dict[str, Any]) -> dict[str, Any]:
    quick = {"retry": {"initial_delay": "50ms", "max_delay": "400ms"}, "breaker": {"max_delay": "400ms"}}
    base = consumer.url.rpartition("/")[0]
    return {
        "receiver": {"port": free_port(), "hooks": [{"name": "default", "token": TOKEN}], **receiver},
        "ledger": {"url": ledger},
        "gitlab": {"url": gitlab.url, "token": gitlab.api.token},
        "projects": list(gitlab.world.projects),
        # A webhook that waits for a copy that hangs comes before its record is read.
        "reconcile": {"interval": "3s", "grace_period": "5s", "overlap": "30s", "sources": ["project_events"]},
        "destinations": [
            {"name": name, "url": f"{base}/{name}", "ordering": name, "allow_private": True, **quick}
            for name in ORDERINGS
        ],
    }


def _through(database: PostgresUrl, wires: Sequence[Wire]) -> str:
    """How a copy reaches the database."""
    options = psycopg.conninfo.conninfo_to_dict(database.value)
    about = {name: str(value) for name, value in options.items() if name not in ("host", "port", "user", "dbname")}
    hosts = ",".join(f"127.0.0.1:{wire.port}" for wire in wires)
    wanted = "&".join(f"{name}={quote(value)}" for name, value in about.items())
    return f"postgresql://{options['user']}@{hosts}/{options['dbname']}?{wanted}"


def _end(service: Service) -> None:
    if service.process is not None and service.process.poll() is None:
        service.kill()
