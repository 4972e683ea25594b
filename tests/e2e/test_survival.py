"""The receiver outlives everything else: whatever fails beside it, webhooks are recorded; what failed is named."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import threading
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from reconciler.ledger.storage.connection import connect
from reconciler.ledger.upkeep.reloads import Reload, last_reload
from reconciler.simulator.consumer import Consumer
from reconciler.simulator.ports import free_port
from tests.conftest import MakeService, to_consumer
from tests.support.broken_kinds import BROKEN, install
from tests.support.descriptors import kill_listener
from tests.support.looking import DAMAGED_INDEX, accept, change, locked, refuse
from tests.support.service import COMMAND, Service, until


def body(number: int) -> bytes:
    return json.dumps({"object_kind": "note", "project_id": 1, "object_attributes": {"id": number}}).encode()


def post(service: Service, number: int, *, recorded: bool = True) -> int:
    return service.post(body(number), recorded=recorded, Idempotency_Key=str(uuid.uuid4())).status_code


def events(service: Service) -> int:
    count: int = service.rows("SELECT count(*) FROM events")[0][0]
    return count


def failing(service: Service) -> set[str]:
    return {name for (name,) in service.rows("SELECT name FROM parts WHERE failing_since IS NOT NULL")}


def reload_of(service: Service) -> Reload:
    with closing(connect(service.location, readonly=True)) as db:
        return last_reload(db)


@contextmanager
def posting(service: Service) -> Iterator[list[int]]:
    """Deliver webhooks all the while; the answers."""
    answers: list[int] = []
    enough = threading.Event()

    def go() -> None:
        while not enough.is_set():
            answers.append(post(service, 1_000_000 + len(answers), recorded=False))
            enough.wait(0.02)

    thread = threading.Thread(target=go)
    thread.start()
    try:
        yield answers
    finally:
        enough.set()
        thread.join()


@pytest.fixture
def broken_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package with kinds that fail is installed for every command that is run."""
    folder = tmp_path / "site"
    folder.mkdir()
    install(folder)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")])))


def webhook(**more: Any) -> dict[str, Any]:
    return {"name": "bad", "url": "https://example.com/", **more}


BAD_DESTINATIONS: list[tuple[dict[str, Any], str]] = [
    (webhook(transform={"template": "{{ body | nonsense }}"}), "No filter named 'nonsense'"),
    (webhook(transform={"template": "{{ body is nonsense }}"}), "No test named 'nonsense'"),
    (webhook(transform={"jmespath": "lenght(body)"}), "there is no function lenght(); did you mean length()?"),
    (webhook(filter={"expression": "contains(body)"}), "contains() takes 2 arguments, not 1"),
    (webhook(proxy="http://proxy:31x28"), "should be a URL like https://host/path: is the port a number?"),
    (webhook(url="https://example.com:99999/"), "is the port a number?"),
    (webhook(headers={"X-Team": "Müller"}), "can't be sent in a header"),
    (webhook(headers={"X Team": "a"}), "is not a valid header name"),
    ({"name": "bad", "kind": "nats", "servers": ["nats://host:42x2"]}, "should be a URL like nats://"),
    *[
        ({"name": "bad", "kind": kind}, f"kind {kind} (package broken-kinds): {what}")
        for kind, what in BROKEN.items()
    ],
]


@pytest.mark.usefixtures("broken_kinds")
def test_a_reload_that_can_t_be_done_changes_nothing(make_service: MakeService, consumer: Consumer) -> None:
    service = make_service(destinations=[to_consumer(consumer)]).start()
    assert service.process is not None
    good = service.file.read_text()
    with posting(service) as answers:
        for number, (bad, what) in enumerate(BAD_DESTINATIONS, 1):
            service.config["destinations"] = [to_consumer(consumer), bad]
            service.write_config()
            service.process.send_signal(signal.SIGHUP)
            until(lambda number=number: reload_of(service).number == number)  # type: ignore[misc]
            why = reload_of(service).error
            assert why is not None
            assert what in why
            assert str(service.file) in why
            service.wait_for_log("config not reloaded: the service keeps the old one", reason=why)
        service.file.write_text(good)
        assert service.reload() == ""
        more = len(answers) + 5
        until(lambda: len(answers) > more)
    assert set(answers) == {200}
    assert service.process.poll() is None
    assert consumer.wait_for(lambda c: len({request.event_id for request in c.accepted}) == len(answers))
    assert failing(service) == set()


@pytest.mark.usefixtures("broken_kinds")
@pytest.mark.parametrize(("bad", "what"), BAD_DESTINATIONS, ids=lambda one: str(one)[:60])
def test_every_command_says_what_is_wrong_with_such_a_config(
    make_service: MakeService, bad: dict[str, Any], what: str
) -> None:
    service = make_service(destinations=[webhook() | {"name": "good"}, bad])
    service.write_config()
    for command in ("serve", "check", "status"):
        done = service.run(command)
        assert done.returncode == 2
        assert what in done.stderr
        assert f"{service.file}:" in done.stderr
        assert "destinations[1]" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("broken_kinds")
def test_a_kind_that_does_not_close_is_used_all_the_same(make_service: MakeService) -> None:
    kinds = [{"name": "a", "kind": "broken-close"}, {"name": "b", "kind": "sound"}]
    service = make_service(destinations=kinds).start()
    assert post(service, 1) == 200
    until(lambda: service.rows("SELECT DISTINCT state FROM deliveries") == [("delivered",)])
    service.config["destinations"] = kinds[1:]
    service.write_config()
    assert service.reload() == ""
    assert post(service, 2) == 200
    assert service.stop() == 0


def test_the_dashboard_s_socket_dies(make_service: MakeService) -> None:
    port, metrics = free_port(), free_port()
    service = make_service(admin={"port": port}, metrics={"port": metrics}).start()
    assert service.process is not None
    page = f"http://127.0.0.1:{port}/"
    until(lambda: httpx.get(page).status_code == 200)
    with posting(service) as answers:
        kill_listener(service.pid_of("worker"), port)
        service.wait_for_log("part restarted", part="dashboard")
        until(lambda: is_up(page))
        kill_listener(service.pid_of("worker"), metrics)
        service.wait_for_log("part restarted", part="metrics")
        until(lambda: is_up(f"http://127.0.0.1:{metrics}/metrics"))
        found = httpx.get(f"http://127.0.0.1:{metrics}/metrics").text
        assert 'gitlab_reconciler_part_restarts_total{part="dashboard"} 1.0' in found
        assert 'gitlab_reconciler_part_up{part="receiver"} 1.0' in found
        assert 'gitlab_reconciler_part_up{part="ledger"} 1.0' in found
    assert set(answers) == {200}
    service.wait_for_log("part recovered", part="dashboard")
    assert service.stop() == 0


def test_the_receiver_s_own_socket_dies(make_service: MakeService) -> None:
    service = make_service().start()
    assert post(service, 1) == 200
    kill_listener(service.pid_of("receiver"), service.port)
    service.wait_for_log("part restarted", part="receiver")
    until(lambda: is_up(f"{service.url}/healthz"))
    assert post(service, 2) == 200
    for number in (3, 4):  # the first of them has the socket replaced for all that follow
        os.kill(service.pid_of("receiver"), signal.SIGKILL)
        service.wait_for_log("process started", process="receiver", after=len(service.logs))
        assert post(service, number) == 200
    assert events(service) == 4
    assert service.stop() == 0


def is_up(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False


def test_ports_that_are_taken_keep_no_webhook_out(make_service: MakeService) -> None:
    port, metrics = free_port(), free_port()
    first = make_service(admin={"port": port}, metrics={"port": metrics}).start()
    until(lambda: is_up(f"http://127.0.0.1:{port}/"))
    second = make_service(admin={"port": port}, metrics={"port": metrics}).start()
    assert post(second, 1) == 200
    until(lambda: failing(second) == {"dashboard", "metrics"})
    assert first.stop() == 0
    until(lambda: is_up(f"http://127.0.0.1:{port}/") and is_up(f"http://127.0.0.1:{metrics}/metrics"))
    until(lambda: failing(second) == set())


@pytest.mark.sqlite("a text that is none")
def test_an_event_that_can_t_be_indexed_stops_no_search(make_service: MakeService) -> None:
    service = make_service()
    service.start()
    service.stop()
    with closing(sqlite3.connect(service.ledger, isolation_level=None)) as db:
        db.execute(
            "CREATE TRIGGER odd AFTER INSERT ON sightings WHEN new.payload LIKE '%\"id\": 2}%' "
            "BEGIN UPDATE sightings SET title = CAST(x'ff' AS TEXT) WHERE id = new.id; END"
        )
    service.start()
    for number in (1, 2, 3):
        assert post(service, number) == 200
    service.wait_for_log("events not indexed for search: skipped", events=[2])
    until(lambda: service.rows("SELECT count(*) FROM search") == [(3,)])
    assert service.rows("SELECT rowid FROM search WHERE search MATCH 'kind:note' ORDER BY rowid") == [(1,), (3,)]
    assert failing(service) == set()


def test_a_damaged_index_is_a_part_that_fails(make_service: MakeService) -> None:
    service = make_service().start()
    assert post(service, 1) == 200
    until(lambda: service.rows("SELECT count(*) FROM search") == [(1,)])
    change(service.location, DAMAGED_INDEX)
    with posting(service) as answers:
        until(lambda: failing(service) == {"indexing"})
        assert httpx.get(f"{service.url}/readyz").status_code == 200
    assert set(answers) == {200}
    assert not any(line.get("event") == "the ledger can't be written" for line in service.logs)


@pytest.mark.sqlite("a file that is moved")
def test_the_ledger_s_file_is_taken_away_and_given_back(make_service: MakeService) -> None:
    port, metrics = free_port(), free_port()
    service = make_service(admin={"port": port}, metrics={"port": metrics}).start()
    page = f"http://127.0.0.1:{port}/"
    until(lambda: is_up(page) and is_up(f"http://127.0.0.1:{metrics}/"))
    assert post(service, 1) == 200
    aside = service.ledger.with_name("aside")
    service.ledger.rename(aside)
    assert post(service, 2, recorded=False) == 200
    assert httpx.get(f"{service.url}/readyz").status_code == 200
    until(lambda: httpx.get(page).status_code == 503)
    told = httpx.get(page)
    assert (told.status_code, "was moved or removed while it was in use" in told.text) == (503, True)
    found = httpx.get(f"http://127.0.0.1:{metrics}/metrics").text
    assert 'gitlab_reconciler_part_up{part="ledger"} 0.0' in found
    assert "gitlab_reconciler_ledger_readable 0.0" in found
    aside.rename(service.ledger)
    assert post(service, 3) == 200
    until(lambda: httpx.get(page).status_code == 200)
    assert events(service) == 3
    assert service.stop() == 0


@pytest.mark.sqlite("a file that is moved")
def test_an_idle_service_notices_that_its_file_is_gone(make_service: MakeService) -> None:
    service = make_service().start()
    service.ledger.unlink()
    assert "was moved or removed" in service.wait_for_log("the ledger can't be written")["reason"]
    assert service.stop() == 0


@pytest.mark.sqlite("a file that is replaced")
def test_another_file_in_the_ledger_s_place(make_service: MakeService) -> None:
    service = make_service().start()
    assert post(service, 1) == 200
    assert service.run("backup", str(service.folder / "copy.db")).returncode == 0
    (service.folder / "copy.db").rename(service.ledger)
    assert post(service, 2, recorded=False) == 200
    assert "is another file than the one in use" in service.wait_for_log("the ledger can't be written")["reason"]
    assert service.stop() == 0
    service.start()  # as it says: the file that is there now is used
    assert post(service, 3) == 200
    assert events(service) == 3


@pytest.mark.sqlite("a file that is replaced")
def test_no_face_reads_another_file_in_the_ledger_s_place(make_service: MakeService) -> None:
    port, metrics = free_port(), free_port()
    service = make_service(admin={"port": port}, metrics={"port": metrics}).start()
    page, figures = f"http://127.0.0.1:{port}/", f"http://127.0.0.1:{metrics}/metrics"
    until(lambda: is_up(page) and is_up(figures))
    assert post(service, 1) == 200
    copy, aside = service.folder / "copy.db", service.folder / "aside.db"
    assert service.run("backup", str(copy)).returncode == 0
    with httpx.stream("GET", f"{page}stream?after=0", timeout=30) as stream:
        lines = stream.iter_lines()
        assert any(line == "id: 1" for line in lines)
        service.ledger.rename(aside)
        copy.rename(service.ledger)
        assert any("is another file than the one in use" in line for line in lines)
        for path in ("", "events/1/payload", "stream"):
            told = httpx.get(page + path, timeout=5)
            assert (told.status_code, "is another file than the one in use" in told.text) == (503, True), path
        found = httpx.get(figures).text
        assert "gitlab_reconciler_ledger_readable 0.0" in found
        for name in ("unknowns", "queue_depth", "ledger_bytes"):
            assert f"gitlab_reconciler_{name}" not in found
        service.ledger.rename(copy)
        aside.rename(service.ledger)
        assert post(service, 2) == 200
        assert any(line == "id: 2" for line in lines)  # the same listener
    assert "gitlab_reconciler_ledger_readable 1.0" in httpx.get(figures).text


def test_a_service_starts_while_its_ledger_can_t_be_written(make_service: MakeService, consumer: Consumer) -> None:
    service = make_service(destinations=[to_consumer(consumer)])
    port = service.config["receiver"]["port"] = free_port()
    service.write_config()
    with locked(service.location) as unlock:
        threading.Thread(target=service.start).start()
        until(lambda: is_up(f"http://127.0.0.1:{port}/healthz"))
        service.port = port
        assert post(service, 1, recorded=False) == 200
        assert httpx.get(f"{service.url}/readyz").status_code == 200
        is_file = isinstance(service.location, Path)
        service.wait_for_log(
            "ledger not available yet: webhooks wait in the intake" if is_file else "the ledger can't be written"
        )
        unlock()
    service.wait_for_log("ready")
    assert post(service, 2) == 200
    assert consumer.wait_for(lambda c: len(c.accepted) == 2)
    assert service.stop() == 0


def test_what_is_delivered_in_the_first_moments_waits_and_is_taken(make_service: MakeService) -> None:
    service = make_service()
    service.config["receiver"]["port"] = service.port = free_port()
    service.write_config()
    service.process = subprocess.Popen(
        [*COMMAND, "serve", "-c", str(service.file)], stderr=subprocess.DEVNULL, text=True
    )
    first = None
    while first is None:
        try:
            first = post(service, 1)
        except httpx.ConnectError:  # it does not listen yet
            continue
    assert first == 200


def test_a_service_that_waits_for_its_ledger_can_be_stopped(make_service: MakeService) -> None:
    service = make_service()
    service.config["receiver"]["port"] = port = free_port()
    service.write_config()
    with locked(service.location):
        process = subprocess.Popen([*COMMAND, "serve", "-c", str(service.file)], stderr=subprocess.DEVNULL, text=True)
        until(lambda: is_up(f"http://127.0.0.1:{port}/healthz"))
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


@pytest.mark.parametrize("how", ["closed at the start", "its reader is gone", "nobody reads it", "the disk is full"])
def test_a_log_that_can_t_be_written_stops_nothing(make_service: MakeService, how: str) -> None:
    service = make_service()
    service.config["receiver"]["port"] = service.port = free_port()
    service.write_config()
    reader, writer = os.pipe()
    if how == "the disk is full":
        os.close(writer)
        writer = os.open("/dev/full", os.O_WRONLY)
    command = [*COMMAND, "serve", "-c", str(service.file), "--log-level", "debug"]
    if how == "closed at the start":
        command = ["sh", "-c", 'exec "$@" 2>&- 1>&- 0<&-', "sh", *command]
    service.process = subprocess.Popen(command, stderr=writer, text=True)
    os.close(writer)
    try:
        if how == "its reader is gone":
            os.close(reader)
        until(lambda: is_up(f"{service.url}/readyz"))
        for number in range(300):
            assert service.post(b"{", Idempotency_Key=f"no-{number}").status_code == 400
            assert post(service, number, recorded=False) == 200
        service.until_recorded()
        assert events(service) == 300
        assert service.stop() in (0, 120)
        if isinstance(service.location, Path):
            assert service.ledger.read_bytes()[:15] == b"SQLite format 3"
    finally:
        if how != "its reader is gone":
            os.close(reader)


def test_a_mistake_while_one_delivery_is_recorded_is_that_delivery_s(make_service: MakeService) -> None:
    service = make_service().start()
    service.stop()
    refuse(service.location, "%poison%")  # as a bug would
    service.start()
    poison = json.dumps({"object_kind": "note", "object_attributes": {"id": 666, "note": "poison"}}).encode()
    with posting(service) as answers:
        for number in range(5):
            assert service.post(poison, Idempotency_Key=f"p{number}").status_code == 200
    assert set(answers) == {200}
    service.until_recorded()
    assert events(service) == len(answers)
    assert service.rows("SELECT count(*) FROM unrecorded") == [(5,)]
    service.wait_for_log("webhook not recorded: it is kept, see `intake list`")
    failed = [line for line in service.logs if line.get("event") == "a change of the ledger failed"]
    assert ["exception" in line for line in failed].count(True) in (1, 2)  # of a batch, and of one alone
    assert not any(line.get("event") == "the ledger can't be written" for line in service.logs)
    accept(service.location)
    assert service.run("intake", "retry").returncode == 0
    until(lambda: service.rows("SELECT count(*) FROM unrecorded") == [(0,)])
    assert service.rows("SELECT count(*) FROM sightings WHERE payload LIKE '%poison%'") == [(5,)]
