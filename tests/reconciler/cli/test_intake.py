"""`intake`: what could not be recorded, for a person and for a program, with a service and without one."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from reconciler.cli.app import command_line
from reconciler.cli.common import Failed
from reconciler.events import times
from reconciler.ledger.intake.intake import ReceivedWebhook
from reconciler.ledger.recording import unrecorded
from reconciler.ledger.recording.unrecorded import FailedWebhook
from reconciler.ledger.storage.connection import connect, transaction
from reconciler.ledger.storage.lock import only_service

NOW = times.from_iso("2026-11-24T12:00:00.000Z")


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    (tmp_path / "config.yaml").write_text(
        yaml.safe_dump({"gitlab": {"url": "https://gitlab.example"}, "receiver": {"hooks": [{"token": "t"}]}})
    )
    return tmp_path / "ledger.db"


def keep(ledger: Path, *bodies: bytes) -> None:
    with closing(connect(ledger)) as db, transaction(db):
        failed = [FailedWebhook(ReceivedWebhook("default", NOW, {}, body), f"broken: {body!r}") for body in bodies]
        unrecorded.keep(db, failed, now=NOW)


def run(ledger: Path, *arguments: str) -> Result:
    return CliRunner().invoke(
        command_line(["intake"]), ["intake", *arguments, "-c", str(ledger.with_name("config.yaml"))]
    )


def why(result: Result) -> str:
    """What the program prints before it exits with 1."""
    assert isinstance(result.exception, Exception)
    return str(result.exception)


def due(ledger: Path) -> set[int]:
    with closing(connect(ledger, readonly=True)) as db:
        return unrecorded.idents(db, due=True)


def test_there_is_nothing_to_list(ledger: Path) -> None:
    keep(ledger)
    assert run(ledger, "list").stdout == "No webhook failed to be recorded.\n"
    assert json.loads(run(ledger, "list", "--json").stdout)["unrecorded"] == []
    shown = run(ledger, "retry")
    assert (shown.exit_code, shown.stdout) == (0, "No webhook failed to be recorded.\n")


def test_there_is_no_ledger(ledger: Path) -> None:
    for arguments in (("list",), ("show", "1"), ("discard", "1")):
        assert "there is no ledger yet" in why(run(ledger, *arguments))
        assert not ledger.exists()


def test_they_are_listed(ledger: Path) -> None:
    keep(ledger, b"{1}", b"{22}")
    text = run(ledger, "list").stdout
    assert "broken: b'{1}'" in text
    assert text.index("{22}") < text.index("{1}")  # the newest first
    shown = json.loads(run(ledger, "list", "--json").stdout)
    assert [(one["id"], one["bytes"], one["tries"], one["due"]) for one in shown["unrecorded"]] == [
        (2, 4, 1, False),
        (1, 3, 1, False),
    ]
    assert shown["backlog"] == {"waiting": 0, "oldest_at": None, "error": None}


def test_a_body_is_shown_unchanged(ledger: Path) -> None:
    keep(ledger, b"{\x00\xff\r\n}")
    assert run(ledger, "show", "1").stdout_bytes == b"{\x00\xff\r\n}"
    assert "there is no webhook 7" in why(run(ledger, "show", "7"))


def test_without_a_service_they_are_tried_at_its_start(ledger: Path) -> None:
    keep(ledger, b"{1}", b"{2}", b"{3}")
    shown = run(ledger, "retry", "2")
    assert (shown.exit_code, "when the service starts" in shown.stdout) == (0, True)
    assert due(ledger) == {2}
    assert "to be tried again" in run(ledger, "list").stdout
    assert json.loads(run(ledger, "retry", "--json").stdout) == {"retried": 3, "due": 3, "unrecorded": 3}
    assert due(ledger) == {1, 2, 3}


def test_an_unknown_one_changes_nothing(ledger: Path) -> None:
    keep(ledger, b"{1}")
    assert "there is no webhook 8, 9" in why(run(ledger, "retry", "1", "9", "8"))
    assert due(ledger) == set()


@pytest.mark.parametrize("json_too", [False, True])
def test_a_service_that_does_not_try_is_an_error(
    ledger: Path, json_too: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reconciler.cli.intake.PATIENCE_S", 0.1)
    keep(ledger, b"{1}")
    with only_service(ledger):
        shown = run(ledger, "retry", *(["--json"] if json_too else []))
    assert shown.exit_code == 1
    if json_too:
        assert json.loads(shown.stdout) == {"retried": 1, "due": 1, "unrecorded": 1}
    else:
        assert isinstance(shown.exception, Failed)
        assert "did not try" in why(shown)


def kept(ledger: Path) -> set[int]:
    with closing(connect(ledger, readonly=True)) as db:
        return unrecorded.idents(db)


def test_one_is_discarded(ledger: Path) -> None:
    keep(ledger, b"{1}", b"{22}", b"{333}")
    shown = run(ledger, "discard", "3", "1", "3")
    assert (shown.exit_code, shown.stdout.splitlines()[0]) == (0, "2 webhooks are discarded:")
    assert "broken: b'{333}'" in shown.stdout
    assert "broken: b'{22}'" not in shown.stdout
    assert kept(ledger) == {2}
    [found] = json.loads(run(ledger, "discard", "2", "--json").stdout)["discarded"]
    assert (found["id"], found["hook"], found["bytes"], found["error"]) == (2, "default", 4, "broken: b'{22}'")
    assert kept(ledger) == set()


def test_nothing_is_discarded_if_one_is_unknown(ledger: Path) -> None:
    keep(ledger, b"{1}", b"{2}")
    shown = run(ledger, "discard", "1", "9", "8", "2")
    assert (shown.exit_code, "there is no webhook 8, 9" in why(shown)) == (1, True)
    assert kept(ledger) == {1, 2}


@pytest.mark.parametrize("arguments", [(), ("x",), ("-1",), ("1", "99999999999999999999")])
def test_it_must_be_said_which_are_discarded(ledger: Path, arguments: tuple[str, ...]) -> None:
    keep(ledger, b"{1}")
    assert run(ledger, "discard", *arguments).exit_code == 2
    assert kept(ledger) == {1}


def test_what_a_service_may_be_reading_is_not_discarded(ledger: Path) -> None:
    """It would record it nevertheless."""
    keep(ledger, b"{1}", b"{2}")
    run(ledger, "retry", "2")
    with only_service(ledger):
        assert "still to be tried by the service: 2;" in why(run(ledger, "discard", "1", "2"))
        assert kept(ledger) == {1, 2}
        assert run(ledger, "discard", "1").exit_code == 0
    assert run(ledger, "discard", "2").exit_code == 0
    assert kept(ledger) == set()


def test_what_was_never_tried_is_not_discarded(ledger: Path) -> None:
    """It came with a copy of the ledger, and nothing is wrong with it."""
    with closing(connect(ledger)) as db, transaction(db):
        unrecorded.keep(db, [FailedWebhook(ReceivedWebhook("default", NOW, {}, b"{}"), "")], now=NOW, due=True)
    assert "still to be tried" in why(run(ledger, "discard", "1"))
    assert kept(ledger) == {1}
