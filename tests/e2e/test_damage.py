"""A service on a ledger that a bad disk has damaged."""

from __future__ import annotations

import json
import socket
import sqlite3
from contextlib import closing

import httpx
import pytest

from reconciler.ledger.queue.routes import Route
from reconciler.ledger.recording.place import progress
from reconciler.ledger.storage.connection import connect
from tests.conftest import MakeService
from tests.support.damage import overwrite, pages_of
from tests.support.filled import filled
from tests.support.service import Service, until

pytestmark = pytest.mark.sqlite("a file that is damaged")

BODY = json.dumps({"object_kind": "note", "project_id": 1}).encode()


def made(make_service: MakeService) -> Service:
    """With 600 events, which a destination that is a file is still to get."""
    service = make_service(destinations=[{"name": "a", "kind": "file", "path": "sent.ndjson", "ordering": "none"}])
    with closing(connect(service.ledger)) as db:
        db.execute("INSERT INTO destinations (id, name, ordering, active) VALUES (1, 'a', 'none', 1)")
    filled(service.ledger, 600, routes=[Route(1, "none", lambda _: True)])
    return service


def sent(service: Service) -> int:
    file = service.folder / "sent.ndjson"
    return len(set(file.read_text().splitlines())) if file.exists() else 0


def holds(service: Service) -> bool:
    """Whether webhooks are left in the intake that could not be recorded."""
    with closing(connect(service.ledger, readonly=True)) as db:
        found = progress(db)
    return found is not None and found.held != ()


@pytest.mark.parametrize(
    "index", ["deliveries_open", "lanes_by_name", "events_by_project", "sqlite_autoindex_destinations_1"]
)
def test_an_index_is_repaired_by_the_start(make_service: MakeService, index: str) -> None:
    service = made(make_service)
    overwrite(service.ledger, pages_of(service.ledger, index))
    service.start()
    service.wait_for_log("ledger repaired: nothing is lost, the damaged file is kept")
    assert httpx.get(f"{service.url}/readyz").status_code == 200
    assert service.post(BODY).status_code == 200
    until(lambda: sent(service) == 601)
    assert service.stop() == 0


def test_damage_that_is_met_later_is_said_and_repaired_by_the_next_start(make_service: MakeService) -> None:
    service = made(make_service)
    pages = pages_of(service.ledger, "sighting_hashes_by_id")
    overwrite(service.ledger, pages[len(pages) // 2 : len(pages) // 2 + 1])
    service.start()
    until(lambda: sent(service) == 600)
    assert httpx.get(f"{service.url}/readyz").status_code == 200
    with sqlite3.connect(f"file:{service.ledger}?mode=ro", uri=True) as db:
        ids = [ident for (ident,) in db.execute("SELECT source_id FROM sightings NOT INDEXED")]
    assert {service.post(BODY, Idempotency_Key=ident).status_code for ident in ids[::10]} == {200}
    until(lambda: holds(service))
    assert httpx.get(f"{service.url}/readyz").status_code == 200
    # What is sound is used. The last id of all: one among the others may have SQLite divide a page with its damaged
    # neighbour.
    assert service.post(BODY, Idempotency_Key="new").status_code == 200
    assert "ledger file" in service.run("status").stdout
    assert service.stop() == 0
    service.start()
    service.wait_for_log("ledger repaired: nothing is lost, the damaged file is kept")
    until(lambda: not holds(service))
    assert {service.post(BODY, Idempotency_Key=ident).status_code for ident in ids[::10]} == {200}
    assert not holds(service)
    assert httpx.get(f"{service.url}/readyz").status_code == 200


def test_a_table_is_not_repaired_and_the_service_does_what_can_be_done(make_service: MakeService) -> None:
    service = made(make_service)
    overwrite(service.ledger, pages_of(service.ledger, "runs"))
    with closing(connect(service.ledger)) as db:
        db.execute("INSERT INTO meta VALUES ('damage', 'met before')")
    service.start()
    why = service.wait_for_log("ledger not repaired")["reason"]
    assert "a part of the table runs is lost: restore a backup" in why
    assert service.post(BODY).status_code == 200
    until(lambda: sent(service) == 601)
    assert service.stop() == 0
    service.start()
    assert service.wait_for_log("ledger not repaired")["reason"] == why
    assert not [entry for entry in service.logs if entry["event"] == "repairing ledger"]  # not at each start


def test_systemd_is_asked_to_wait_for_a_repair(make_service: MakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    service = made(make_service)
    overwrite(service.ledger, pages_of(service.ledger, "events_by_project"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(service.folder / "notify"))
        systemd.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", str(service.folder / "notify"))
        service.start()
        assert systemd.recv(100) in (b"EXTEND_TIMEOUT_USEC=60000000", b"READY=1")  # the receiver may be ready first


def test_one_that_can_t_be_started_on_says_what_is_lost(make_service: MakeService) -> None:
    service = made(make_service)
    service.write_config()
    overwrite(service.ledger, pages_of(service.ledger, "destinations"))
    first, second, third = (service.run("serve") for _ in range(3))
    assert first.returncode == second.returncode == third.returncode == 1
    assert f"{service.ledger}: " in first.stderr
    assert "a part of the table destinations is lost: restore a backup" in second.stderr
    assert "; the next start tries to repair it" in first.stderr
    assert "; the next start tries to repair it" not in second.stderr + third.stderr
    for done in (first, second, third):
        said = [line for line in done.stderr.splitlines() if not line.startswith("{")]
        assert [line.startswith(str(service.ledger)) for line in said] == [True]


def test_an_index_that_somebody_made_keeps_no_service_from_starting(make_service: MakeService) -> None:
    service = made(make_service)
    with closing(sqlite3.connect(service.ledger)) as db:
        db.execute("CREATE INDEX [their own] ON events (lower(kind))")
    service.start()
    until(lambda: sent(service) == 600)
    assert service.stop() == 0
