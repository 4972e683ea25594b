"""The service's processes: whichever of them ends, is stopped or is wedged, webhooks are acknowledged, and none of
them is lost.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest

from reconciler.ledger.intake.file import intake_path
from reconciler.ledger.storage.connection import connect
from reconciler.ledger.storage.lock import service_process
from reconciler.ledger.upkeep.reloads import last_reload
from reconciler.service.errors import ServiceError
from reconciler.service.listen_addresses import trouble
from reconciler.service.port import ReceiverPort
from reconciler.simulator.consumer import Consumer
from reconciler.simulator.ports import free_port
from tests.conftest import MakeService, to_consumer
from tests.support.damage import overwrite, pages_of
from tests.support.service import COMMAND, TOKEN, Service, children, run, runs, until

ENDED = "process exited unexpectedly: restarting it"
PARTS = ["receiver", "worker"]


class Posting:
    """Delivers webhooks all the while. `acknowledged` are those answered with 200."""

    def __init__(self, service: Service) -> None:
        self.acknowledged: set[str] = set()
        self.statuses: set[int] = set()
        self.refused = 0
        """Connections that were refused."""
        self._service = service
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._post_all)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def until_more(self, count: int = 5) -> None:
        """Wait until so many more were acknowledged."""
        before = len(self.acknowledged)
        until(lambda: len(self.acknowledged) >= before + count)

    def _post_all(self) -> None:
        while not self._over.is_set():
            key = str(uuid.uuid4())
            try:
                answer = post(self._service, key)
            except httpx.ConnectError:
                self.refused += 1
            except httpx.HTTPError:  # in flight when the receiver ended
                pass
            else:
                self.statuses.add(answer.status_code)
                if answer.status_code == 200:
                    self.acknowledged.add(key)
            self._over.wait(0.005)


def post(service: Service, key: str, *, path: str = "/webhooks/gitlab") -> httpx.Response:
    body = {"object_kind": "note", "project_id": 1, "object_attributes": {"id": uuid.uuid4().int >> 80}}
    return service.post(json.dumps(body).encode(), path=path, recorded=False, Idempotency_Key=key)


@contextmanager
def posting(service: Service) -> Iterator[Posting]:
    one = Posting(service)
    try:
        yield one
    finally:
        one.stop()


def recorded(service: Service) -> set[str]:
    with closing(sqlite3.connect(service.ledger)) as db:
        return {key for (key,) in db.execute("SELECT source_id FROM sightings")}


def all_recorded(service: Service, posted: Posting) -> bool:
    """Whether everything acknowledged is recorded, after what is still to be recorded."""
    service.until_recorded()
    return posted.acknowledged <= recorded(service)


def figure(port: int, name: str) -> str:
    text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    return next(line.rpartition(" ")[2] for line in text.splitlines() if line.startswith(name))


def family(service: Service) -> list[int]:
    """The parent, and all that it has started, and what these have started."""
    assert service.process is not None
    found = [service.process.pid]
    for one in found:
        found += children(one)
    return found


def restarted(service: Service, part: str, number: int, *, before: int = 0) -> int:
    """Send a signal to a process, and wait for its successor; its pid."""
    lines = before or len(service.logs)
    os.kill(service.pid_of(part), number)
    service.wait_for_log(ENDED, process=part, after=lines)
    return int(service.wait_for_log("process started", process=part, after=lines)["pid"])


def reload_number(service: Service) -> int:
    with closing(connect(service.ledger, readonly=True)) as db:
        return last_reload(db).number


def is_pending(pid: int, number: int) -> bool:
    """Whether a signal waits for a process that is stopped."""
    status = Path(f"/proc/{pid}/status").read_text()
    [pending] = re.findall(r"^ShdPnd:\s*(\w+)", status, re.MULTILINE)
    return bool(int(pending, 16) & 1 << number - 1)


# Kills


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGRTMIN + 1])
def test_the_receiver_ends_and_no_connection_is_refused(make_service: MakeService, number: int) -> None:
    metrics = free_port()
    service = make_service(metrics={"port": metrics}).start()
    with posting(service) as posted:
        for _ in range(3):
            posted.until_more()
            before = service.pid_of("receiver")
            assert restarted(service, "receiver", number) != before
        posted.until_more()
    assert posted.refused == 0
    assert posted.statuses == {200}
    assert all_recorded(service, posted)
    until(lambda: figure(metrics, 'gitlab_reconciler_process_restarts_total{process="receiver"}') == "3.0")
    until(lambda: figure(metrics, 'gitlab_reconciler_part_up{part="receiver"}') == "0.0")  # it ends again and again
    assert service.stop() == 0


def test_the_worker_is_wedged_then_killed_and_nothing_is_missing(
    make_service: MakeService, consumer: Consumer
) -> None:
    service = make_service(destinations=[to_consumer(consumer)]).start()
    with posting(service) as posted:
        posted.until_more()
        os.kill(service.pid_of("worker"), signal.SIGSTOP)
        posted.until_more(50)
        assert posted.acknowledged - recorded(service)
        restarted(service, "worker", signal.SIGKILL)
        posted.until_more()
    assert posted.refused == 0
    assert posted.statuses == {200}
    assert all_recorded(service, posted)
    assert consumer.wait_for(lambda c: len({one.event_id for one in c.accepted}) == len(recorded(service)))
    assert service.stop() == 0


WORKER_WAS_DOWN = "worker was down: webhooks were accepted meanwhile"


def downtimes(service: Service) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(service.ledger)) as db:
        return db.execute("SELECT started_at, how FROM downtimes").fetchall()


def starts(service: Service) -> list[str]:
    """What the log says of the time before a start."""
    return [line["event"] for line in service.logs if line["event"] in ("service was down", WORKER_WAS_DOWN)]


def test_only_the_worker_was_down(make_service: MakeService) -> None:
    """The receiver was not, even if it was started again meanwhile: the parent has its port."""
    service = make_service().start()
    for part in ("worker", "receiver", "worker"):
        lines = len(service.logs)
        restarted(service, part, signal.SIGKILL)
        service.wait_for_log("listening" if part == "receiver" else "ready", after=lines)
    assert starts(service) == [WORKER_WAS_DOWN] * 2
    assert downtimes(service) == []
    service.kill()
    service.start()
    assert starts(service) == ["service was down"]
    assert [how for _, how in downtimes(service)] == ["killed"]


def test_a_worker_and_a_receiver_that_run_alone(make_service: MakeService) -> None:
    """The receiver's file says whether it was there while the worker was not."""
    worker = make_service()
    receiver = make_service(ledger={"path": str(worker.ledger)}).start("receiver")
    worker.start("worker")
    assert worker.stop() == 0
    status = worker.run("status").stdout
    assert "service worker: not running" in status
    assert "Webhooks are accepted and wait in the intake" in status
    worker.start("worker")
    assert starts(worker) == [WORKER_WAS_DOWN]
    assert downtimes(worker) == []
    assert worker.stop() == 0
    receiver.kill()
    assert "service gitlab-reconciler: not running" in worker.run("status").stdout
    worker.start("worker")  # nobody receives
    assert starts(worker) == ["service was down"]
    assert [how for _, how in downtimes(worker)] == ["stopped"]
    worker.kill()
    receiver.start("receiver")  # it was not there when the worker ended
    worker.start("worker")
    assert starts(worker) == ["service was down"]
    assert [how for _, how in downtimes(worker)] == ["stopped", "killed"]


@pytest.mark.parametrize("part", PARTS)
def test_a_process_that_says_nothing_is_killed_and_started_again(make_service: MakeService, part: str) -> None:
    service = make_service().start(module="tests.support.impatient")
    with posting(service) as posted:
        posted.until_more()
        wedged = service.pid_of(part)
        lines = len(service.logs)
        os.kill(wedged, signal.SIGSTOP)
        told = service.wait_for_log("process does not answer: it is killed and started again", after=lines)
        assert (told["process"], told["pid"]) == (part, wedged)
        service.wait_for_log("process started", process=part, after=lines)
        posted.until_more()
    assert not runs(wedged)
    assert posted.refused == 0
    assert all_recorded(service, posted)
    assert service.stop() == 0


def test_a_worker_that_hangs_while_it_starts_again_is_killed(make_service: MakeService) -> None:
    service = make_service().start(module="tests.support.impatient")
    with locked(service.ledger):
        lines = len(service.logs)
        restarted(service, "worker", signal.SIGKILL)
        service.wait_for_log("ledger not available yet: webhooks wait in the intake", after=lines)
        starting = service.pid_of("worker")
        os.kill(starting, signal.SIGSTOP)
        told = service.wait_for_log("process does not answer: it is killed and started again", after=lines)
        assert (told["process"], told["pid"]) == ("worker", starting)
    service.wait_for_log("ready", after=lines)
    assert service.stop() == 0


@pytest.mark.parametrize("stopped", [None, "worker", "receiver"])
def test_the_parent_is_killed_and_another_service_starts_at_once(
    make_service: MakeService, stopped: str | None
) -> None:
    jailed = {"name": "a", "kind": "file", "path": "sent.ndjson", "transform": {"jmespath": "body"}}
    service = make_service(destinations=[jailed]).start()
    assert service.process is not None
    with posting(service) as posted:
        posted.until_more()
        until((service.folder / "sent.ndjson").exists)
        everyone = family(service)
        assert len(everyone) == 4  # with the process of the transform
        if stopped is not None:
            os.kill(service.pid_of(stopped), signal.SIGSTOP)
        service.process.kill()
        service.process.wait(30)
        service.start()  # it waits for nothing
        posted.until_more()
    until(lambda: not any(map(runs, everyone)))
    assert all_recorded(service, posted)
    assert service.stop() == 0


def test_everything_is_killed_at_once(make_service: MakeService) -> None:
    service = make_service().start()
    with posting(service) as posted:
        for _ in range(3):
            posted.until_more()
            for pid in family(service):
                os.kill(pid, signal.SIGKILL)
            service.start()
        posted.until_more()
    assert all_recorded(service, posted)
    assert service.stop() == 0


def test_an_intake_whose_disk_hangs_is_seen(make_service: MakeService) -> None:
    metrics = free_port()
    service = make_service(metrics={"port": metrics}).start(module="tests.support.impatient")
    assert post(service, "a").status_code == 200
    with locked(intake_path(service.ledger)):  # a write does not end
        asking = threading.Thread(target=post, args=(service, "b"))
        asking.start()
        told = service.wait_for_log("webhooks can't be appended to the intake")
        assert "hangs" in told["reason"]
        until(lambda: figure(metrics, 'gitlab_reconciler_part_up{part="receiver"}') == "0.0")
    asking.join()
    service.wait_for_log("the intake's disk answers again")
    until(lambda: figure(metrics, 'gitlab_reconciler_part_up{part="receiver"}') == "1.0")


def test_a_receiver_that_runs_alone_and_can_t_write(make_service: MakeService) -> None:
    """Seen by the commands, though no worker looks at it, and before a webhook comes."""
    service = make_service().start("worker")  # there is a ledger
    assert service.stop() == 0
    service.start("receiver", module="tests.support.impatient")
    assert "part receiver" not in service.run("status").stdout
    with locked(intake_path(service.ledger)):
        until(lambda: "part receiver: failing" in service.run("status").stdout)
        assert "answered with 503" in " ".join(service.run("status").stdout.split())
    until(lambda: "part receiver" not in service.run("status").stdout)
    service.stop()


# Stops


def test_the_receiver_stops_first_and_then_the_worker(make_service: MakeService) -> None:
    service = make_service().start()
    everyone = family(service)
    with posting(service) as posted:
        posted.until_more()
        assert service.stop() == 0
    assert not any(map(runs, everyone))
    assert posted.statuses == {200}
    assert posted.acknowledged <= recorded(service)
    told = [line["event"] for line in service.logs]
    assert told.index("receiver stopping") < told.index("receiver stopped") < told.index("stopping")
    assert told[-1] == "stopped"
    assert ENDED not in told
    assert trouble("127.0.0.1", service.port) is None
    assert service_process(service.ledger) is None


HANGUP = """
import os, signal
from reconciler.cli import main, serve

def read_config(file, read=serve.read_config):
    os.kill(os.getpid(), signal.SIGHUP)
    return read(file)

serve.read_config = read_config
main()
"""


@pytest.mark.parametrize("only", [None, *PARTS])
def test_a_sighup_before_the_service_can_take_it(make_service: MakeService, only: str | None) -> None:
    service = make_service()
    service.write_config()
    options = [] if only is None else ["--only", only]
    command = [sys.executable, "-c", HANGUP, "serve", "-c", str(service.file), "--log-level", "debug", *options]
    service.watch(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
    service.wait_for_log("receiver reloaded" if only == "receiver" else "config reloaded")
    assert service.stop() == 0


@contextmanager
def begun(service: Service) -> Iterator[None]:
    """In the middle of a request, for which the receiver waits."""
    head = f"POST /webhooks/gitlab HTTP/1.1\r\nHost: a\r\nX-Gitlab-Token: {TOKEN}\r\nContent-Length: 9\r\n"
    expects = "Content-Type: application/json\r\nExpect: 100-continue\r\n\r\n"
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as client:
        client.sendall((head + expects).encode())
        assert client.recv(100).startswith(b"HTTP/1.1 100")  # it reads the body
        yield


def test_a_second_sigterm_waits_for_no_request(make_service: MakeService) -> None:
    service = make_service().start()
    assert service.process is not None
    with begun(service):
        service.process.terminate()
        service.wait_for_log("receiver stopping")
        service.process.terminate()
        assert service.process.wait(30) == 0
    assert not [line for line in service.logs if "exceeded" in str(line.get("event"))]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_at_once_stops_them(make_service: MakeService, number: int) -> None:
    """As Ctrl-C on a terminal, and systemd by default."""
    service = make_service()
    service.config["receiver"]["port"] = service.port = free_port()
    service.write_config()
    service.watch(
        subprocess.Popen(
            [*COMMAND, "serve", "-c", str(service.file), "--log-level", "debug"],
            stderr=subprocess.PIPE, text=True, start_new_session=True,
        )
    )  # fmt: skip
    service.wait_for_log("ready")
    assert service.process is not None
    everyone = family(service)
    with posting(service) as posted:
        posted.until_more()
        os.killpg(service.process.pid, number)
        assert service.process.wait(30) == 0
    assert not any(map(runs, everyone))
    told = [line["event"] for line in service.logs]
    assert ENDED not in told
    assert {"receiver stopped", "stopped"} <= set(told)
    assert "Traceback" not in str(service.logs)
    if number == signal.SIGTERM:
        service.start()  # the worker may have stopped first: the rest waits in the intake
        service.until_recorded()
    assert posted.acknowledged <= recorded(service)


@pytest.mark.parametrize("part", PARTS)
def test_a_process_that_does_not_stop_is_killed(make_service: MakeService, part: str) -> None:
    service = make_service().start(module="tests.support.impatient")
    assert service.process is not None
    os.kill(service.pid_of(part), signal.SIGSTOP)
    assert service.stop() == 1
    service.wait_for_log("process does not stop: it is killed", process=part)


def test_a_stop_during_the_start_is_no_failure(make_service: MakeService) -> None:
    service = make_service()
    service.launch()
    assert service.process is not None
    worker = int(service.wait_for_log("process started", process="worker")["pid"])
    os.kill(worker, signal.SIGSTOP)  # at its beginning
    service.process.terminate()
    until(lambda: is_pending(worker, signal.SIGTERM))
    os.kill(worker, signal.SIGCONT)
    assert service.process.wait(30) == 0


def test_a_start_waits_for_a_port_that_is_just_being_closed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as before:
        number = before.getsockname()[1]
        with pytest.raises(ServiceError, match="Address already in use"):
            ReceiverPort("127.0.0.1", number)
        closing_it = threading.Timer(0.1, before.close)
        closing_it.start()
        port = ReceiverPort("127.0.0.1", number)
        closing_it.join()
    assert port.number == number
    port.close()


# Reloads


def with_another_hook(service: Service, consumer: Consumer) -> None:
    service.config["receiver"]["hooks"].append({"name": "second", "token": TOKEN})
    service.config["destinations"] = [to_consumer(consumer)]
    service.write_config()


@pytest.mark.parametrize("how", ["SIGHUP", "reload"])
def test_all_processes_reload_and_those_started_later_have_the_same_config(
    make_service: MakeService, consumer: Consumer, how: str
) -> None:
    service = make_service().start()
    assert service.process is not None
    assert post(service, "early", path="/webhooks/gitlab/second").status_code == 404
    with_another_hook(service, consumer)
    if how == "SIGHUP":
        service.process.send_signal(signal.SIGHUP)
        until(lambda: reload_number(service) == 1)
    else:
        done = service.run("reload")
        assert (done.returncode, f"process {service.process.pid}" in done.stdout) == (0, True)
    assert post(service, "a", path="/webhooks/gitlab/second").status_code == 200
    assert consumer.wait_for(lambda c: len(c.accepted) == 1)
    for part in PARTS:
        lines = len(service.logs)
        restarted(service, part, signal.SIGKILL)
        service.wait_for_log("listening" if part == "receiver" else "ready", after=lines)
    assert post(service, "b", path="/webhooks/gitlab/second").status_code == 200
    assert consumer.wait_for(lambda c: len(c.accepted) == 2)
    assert service.stop() == 0


def test_a_worker_that_ends_in_the_middle_of_a_reload_is_followed_by_one_with_the_new_config(
    make_service: MakeService, consumer: Consumer
) -> None:
    service = make_service().start()
    assert service.process is not None
    with_another_hook(service, consumer)
    worker = service.pid_of("worker")
    os.kill(worker, signal.SIGSTOP)
    service.process.send_signal(signal.SIGHUP)
    until(lambda: is_pending(worker, signal.SIGHUP))  # the receiver has reloaded by now
    restarted(service, "worker", signal.SIGKILL)
    restarted(service, "receiver", signal.SIGKILL)
    until(lambda: post(service, "a", path="/webhooks/gitlab/second").status_code == 200)
    assert consumer.wait_for(lambda c: len(c.accepted) == 1)
    assert service.stop() == 0


@pytest.mark.parametrize("what", ["nonsense", "ledger.path"])
def test_a_refused_reload_changes_no_process(make_service: MakeService, consumer: Consumer, what: str) -> None:
    service = make_service(destinations=[to_consumer(consumer)]).start()
    with_another_hook(service, consumer)
    service.config |= {"nonsense": 1} if what == "nonsense" else {"ledger": {"path": "other.db"}}
    service.write_config()
    assert service.process is not None
    service.process.send_signal(signal.SIGHUP)
    for event in (
        "config not reloaded: the service keeps the old one",
        "config not reloaded: the receiver keeps the old one",
    ):
        assert what in service.wait_for_log(event)["reason"]
    for part in PARTS:
        lines = len(service.logs)
        restarted(service, part, signal.SIGKILL)
        service.wait_for_log("listening" if part == "receiver" else "ready", after=lines)
    assert post(service, "a").status_code == 200
    assert post(service, "b", path="/webhooks/gitlab/second").status_code == 404
    assert consumer.wait_for(lambda c: len(c.accepted) == 1)
    assert not (service.folder / "other.db").exists()
    assert service.stop() == 0


def test_a_reload_while_the_worker_starts_is_not_missed(make_service: MakeService, consumer: Consumer) -> None:
    service = make_service().start()
    assert service.process is not None
    with_another_hook(service, consumer)
    worker = restarted(service, "worker", signal.SIGKILL)
    os.kill(worker, signal.SIGSTOP)  # at its beginning
    service.process.send_signal(signal.SIGHUP)
    until(lambda: is_pending(worker, signal.SIGHUP))
    os.kill(worker, signal.SIGCONT)
    until(lambda: reload_number(service) == 1)
    assert [line.get("event") for line in service.logs].count(ENDED) == 1
    assert post(service, "a", path="/webhooks/gitlab/second").status_code == 200
    assert consumer.wait_for(lambda c: len(c.accepted) == 1)


# Starts that fail


def test_a_start_that_fails_says_why_once_and_leaves_nothing_running(make_service: MakeService) -> None:
    """Its stderr ends with the last process that has it."""
    running = make_service().start()
    assert running.process is not None
    service = make_service()

    def refused(code: int, what: str) -> None:
        service.write_config()
        done = service.run("serve")
        said = [line for line in done.stderr.splitlines() if not line.startswith("{")]
        assert (done.returncode, done.stderr.count(what)) == (code, 1), done.stderr
        assert what == "nonsense" or len(said) == 1, said
        assert "Traceback" not in done.stderr

    service.config["ledger"] = {"path": str(running.ledger)}
    refused(1, f"another `serve` (process {running.process.pid}) has this ledger")
    service.config["ledger"] = {"path": "ledger.db"}
    service.config["receiver"]["port"] = running.port
    refused(1, f"can't listen on 127.0.0.1:{running.port}: Address already in use")
    service.config["receiver"]["port"] = free_port()
    service.config["nonsense"] = 1
    refused(2, "nonsense")
    del service.config["nonsense"]
    service.start().stop()
    later(service)
    refused(2, "later version")
    assert trouble("127.0.0.1", service.port) is None
    assert service_process(service.ledger) is None
    assert post(running, "a").status_code == 200


def later(service: Service) -> None:
    """As if a later version had written the ledger."""
    with closing(sqlite3.connect(service.ledger)) as db, db:
        db.execute("INSERT INTO _sqlite_migrations (migration_set, name, applied_at) VALUES ('ledger', 'm9999', '')")


def test_the_worker_can_t_start_again_and_the_receiver_goes_on(make_service: MakeService) -> None:
    service = make_service().start()
    with posting(service) as posted:
        posted.until_more()
        later(service)
        lines = len(service.logs)
        os.kill(service.pid_of("worker"), signal.SIGKILL)
        service.wait_for_log(ENDED, process="worker", code=2, after=lines)
        posted.until_more()
        with closing(sqlite3.connect(service.ledger)) as db, db:
            db.execute("DELETE FROM _sqlite_migrations WHERE name = 'm9999'")
        service.wait_for_log("ready", after=lines)
    assert posted.statuses == {200}
    assert posted.refused == 0
    assert all_recorded(service, posted)
    assert service.stop() == 0


# Two units


def test_receiver_and_worker_as_two_units(make_service: MakeService, consumer: Consumer) -> None:
    ports = free_port(), free_port()
    receiver = make_service(metrics={"port": ports[0]})
    worker = make_service(
        ledger={"path": str(receiver.ledger)}, metrics={"port": ports[1]}, destinations=[to_consumer(consumer)]
    )
    receiver.start("receiver")
    with posting(receiver) as posted:
        posted.until_more()  # without a worker
        worker.start("worker")
        posted.until_more()
        worker.kill()
        posted.until_more()
        worker.start("worker")
        receiver.kill()
        receiver.start("receiver")
        posted.until_more()
    assert posted.statuses == {200}
    assert all_recorded(receiver, posted)
    assert figure(ports[0], "gitlab_reconciler_webhook_ack_seconds_count") != "0.0"
    assert figure(ports[1], "gitlab_reconciler_ledger_readable") == "1.0"
    assert worker.stop() == receiver.stop() == 0


def test_each_unit_reloads(make_service: MakeService, consumer: Consumer) -> None:
    receiver = make_service().start("receiver")
    worker = make_service(ledger={"path": str(receiver.ledger)}).start("worker")
    for one in (receiver, worker):
        assert one.process is not None
        with_another_hook(one, consumer)
        one.process.send_signal(signal.SIGHUP)
    until(lambda: reload_number(worker) == 1)
    until(lambda: post(receiver, "a", path="/webhooks/gitlab/second").status_code == 200)
    assert consumer.wait_for(lambda c: len(c.accepted) == 1)
    assert {line["event"] for line in worker.logs}.isdisjoint({"listening", "process started"})
    assert {line["event"] for line in receiver.logs}.isdisjoint({"ready", "process started"})


def test_reload_asks_both_units_and_tells_what_became_of_each(make_service: MakeService) -> None:
    receiver = make_service().start("receiver")
    worker = make_service(ledger={"path": str(receiver.ledger)}).start("worker")
    receiver.config["receiver"]["hooks"].append({"name": "second", "token": TOKEN})
    receiver.write_config()
    assert receiver.process is not None
    assert worker.process is not None
    done = receiver.run("reload")
    assert done.returncode == 0, done.stderr
    assert f"The worker (process {worker.process.pid}) now uses" in done.stdout
    assert f"The receiver (process {receiver.process.pid}) now uses" in done.stdout
    assert post(receiver, "a", path="/webhooks/gitlab/second").status_code == 200
    # The command reads a config without mistakes, as the worker does; the receiver's is broken.
    (receiver.folder / "good.yaml").write_text(receiver.file.read_text())
    receiver.file.write_text("nonsense: 1")
    done = run("reload", "-c", str(receiver.folder / "good.yaml"))
    assert done.returncode == 1
    assert f"The worker (process {worker.process.pid}) now uses" in done.stdout
    assert f"the receiver (process {receiver.process.pid}) refused the config" in done.stderr
    assert "nonsense" in done.stderr


# systemd


def test_systemd_is_told_by_the_parent_alone(make_service: MakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    service = make_service().start()
    assert post(service, "a").status_code == 200
    assert service.stop() == 0
    overwrite(service.ledger, pages_of(service.ledger, "events_by_project"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(service.folder / "notify"))
        systemd.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        systemd.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", str(service.folder / "notify"))
        service.start()
        assert service.process is not None
        told = [said_to(systemd)]
        while told[-1][0] != "WATCHDOG=1":
            told.append(said_to(systemd))
        restarted(service, "worker", signal.SIGKILL)
        restarted(service, "receiver", signal.SIGKILL)
        assert service.stop() == 0
        while told[-1][0] != "STOPPING=1":
            told.append(said_to(systemd))
        systemd.setblocking(False)
        with pytest.raises(BlockingIOError):
            said_to(systemd)
    said = [what for what, _ in told]
    assert set(said[: said.index("READY=1")]) <= {"EXTEND_TIMEOUT_USEC=60000000"}  # the repair has not ended by then
    assert set(said[said.index("READY=1") + 1 : -1]) == {"WATCHDOG=1"}
    assert {pid for _, pid in told} == {service.process.pid}


@contextmanager
def locked(ledger: Path) -> Iterator[None]:
    """As another process does that upgrades it, or copies it back."""
    with closing(sqlite3.connect(ledger, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("BEGIN IMMEDIATE")
        yield
        db.execute("ROLLBACK")


@pytest.mark.parametrize("only", [None, "worker"])
def test_systemd_waits_for_a_worker_that_opens_the_ledger_and_not_with_the_receiver(
    make_service: MakeService, monkeypatch: pytest.MonkeyPatch, only: str | None
) -> None:
    service = make_service()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd, locked(service.ledger):
        systemd.bind(str(service.folder / "notify"))
        systemd.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        systemd.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", str(service.folder / "notify"))
        service.launch(only)
        told = [said_to(systemd)[0]]  # of a worker alone, that it needs time
        if only is None:
            while told[-1] != "READY=1":
                told.append(said_to(systemd)[0])
            service.port = service.wait_for_log("listening")["port"]
            assert post(service, "a").status_code == 200
        assert set(told) - {"READY=1"} <= {"EXTEND_TIMEOUT_USEC=60000000"}
        assert (told[-1] == "READY=1") == (only is None)
        service.wait_for_log("ledger not available yet: webhooks wait in the intake")
    service.wait_for_log("ready")
    assert service.stop() == 0


def test_a_worker_that_is_killed_during_its_first_start_does_not_stop_the_receiver(make_service: MakeService) -> None:
    service = make_service()
    with locked(service.ledger):
        service.launch()
        service.port = service.wait_for_log("listening")["port"]
        restarted(service, "worker", signal.SIGKILL)
        assert post(service, "a").status_code == 200
    service.wait_for_log("ready")
    service.until_recorded()
    assert recorded(service) == {"a"}
    assert service.stop() == 0


def said_to(systemd: socket.socket) -> tuple[str, int]:
    """The next notification, and the process that sent it."""
    text, [(_, _, about)], _, _ = systemd.recvmsg(100, 100)
    return text.decode(), struct.unpack("3i", about)[0]
