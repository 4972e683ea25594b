"""Who may use the API: tokens and what they allow, hosts, and pages elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.api import Client, config_for, problem, some_events

TOKEN, READ_TOKEN = "open-sesame-open-sesame", "only-look-only-look"
WRITE = {"Authorization": f"Bearer {TOKEN}"}
READ = {"Authorization": f"Bearer {READ_TOKEN}"}
COUNT = {"dead_letters": True, "dry_run": True}


def made(tmp_path: Path, **admin: Any) -> Client:
    some_events(tmp_path / "ledger.db", 1)
    return Client(config_for(tmp_path / "ledger.db", admin={"port": 1} | admin))


@pytest.fixture
def guarded(tmp_path: Path) -> Client:
    return made(tmp_path, token=TOKEN, read_token=READ_TOKEN)


def test_a_token_is_needed_and_says_what_is_allowed(guarded: Client) -> None:
    for headers, read, write in (
        (WRITE, 200, 200),
        (READ, 200, 403),
        ({"Authorization": "Bearer wrong"}, 401, 401),
        ({}, 401, 401),
    ):
        assert guarded.send("GET", "/events", headers=headers).status_code == read, headers
        assert guarded.send("POST", "/replays", json=COUNT, headers=headers).status_code == write, headers
    refused = guarded.send("GET", "/events")
    assert problem(refused) == (401, "send the token as `Authorization: Bearer …`")
    assert refused.headers["www-authenticate"] == "Bearer"
    browser = guarded.send("GET", "/docs", headers={"Accept": "text/html,*/*"})
    assert (browser.status_code, browser.headers["location"]) == (303, "/login")
    for n in range(12):
        last = guarded.send("GET", "/events", headers={"Authorization": f"Bearer {n}"})
    assert problem(last)[0] == 429


def test_the_token_that_may_only_read_changes_nothing_on_the_dashboard_either(guarded: Client) -> None:
    assert guarded.send("GET", "/../../events", headers=READ).status_code == 200
    for path in ("/../../dead-letters/replay", "/../../destinations/consumer/pause"):
        assert guarded.send("POST", path, data={}, headers=READ).text == "this token may only read\n"


def test_a_page_elsewhere_can_t_write(tmp_path: Path) -> None:
    """Without a token, a browser on this machine sends whatever a page makes it send."""
    client = made(tmp_path)
    for headers, code in (
        ({"Content-Type": "text/plain"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Content-Type": "application/json"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Content-Type": "application/json"}, 403),
        ({"Host": "evil.example", "Content-Type": "application/json"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 404),
        ({"Content-Type": "application/json"}, 404),
    ):
        found = problem(client.send("POST", "/destinations/nobody/pause", headers=headers))
        assert found[0] == code, (headers, found)
    assert "access-control-allow-origin" not in client.send("OPTIONS", "/replays").headers


def test_a_body_without_end_is_refused(tmp_path: Path) -> None:
    client, headers = made(tmp_path), {"Content-Type": "application/json"}
    assert problem(client.send("POST", "/replays", content=b"x" * 70_000, headers=headers))[0] == 413

    async def parts() -> Any:
        yield b"{}"

    assert problem(client.send("POST", "/replays", content=parts(), headers=headers))[0] == 413
