"""Files that are none, ledgers that are none, output that nobody takes, ports that are taken."""

from __future__ import annotations

import json
import os
import shlex
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from reconciler.cli.app import command_line
from reconciler.cli.failing import ending
from reconciler.ledger.storage.lock import only_service
from reconciler.service.errors import ServiceError
from reconciler.service.web import listen
from tests.reconciler.cli.test_usability import in_process
from tests.support.filled import filled
from tests.support.service import COMMAND

Monkey = pytest.MonkeyPatch
Capture = pytest.CaptureFixture[str]


def config_in(folder: Path, ledger: str = "ledger.db", receiver_port: int = 0, more: str = "") -> str:
    file = folder / "config.yaml"
    file.write_text(
        f"receiver: {{port: {receiver_port}, hooks: [{{token: t}}]}}\nledger: {{path: {ledger!r}}}\n{more}"
    )
    return str(file)


@pytest.mark.parametrize("place", [".", "/", "", ".."])
def test_a_folder_is_no_backup(place: str, tmp_path: Path, monkeypatch: Monkey, capsys: Capture) -> None:
    code, said = in_process(monkeypatch, capsys, "restore", place, "-c", config_in(tmp_path))
    assert (code, "is a folder: name the file in it" in said) == (1, True)


@pytest.mark.parametrize("command", ["serve", "repair", "status", "check"])
@pytest.mark.parametrize("path", ["/", ".", ""])
def test_a_folder_is_no_ledger(command: str, path: str, tmp_path: Path, monkeypatch: Monkey, capsys: Capture) -> None:
    code, said = in_process(monkeypatch, capsys, command, "-c", config_in(tmp_path, path))
    assert (code, ":2: ledger.path: should be a file: " in said) == (2, True)


@pytest.mark.parametrize(
    ("path", "said"), [("'~no-such-user-here/l.db'", "there is no such user"), ('"a\\0b"', "zero byte")]
)
def test_a_path_that_can_t_be(path: str, said: str, tmp_path: Path, monkeypatch: Monkey, capsys: Capture) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(f"receiver: {{hooks: [{{token: t}}]}}\nledger: {{path: {path}}}\n")
    code, words = in_process(monkeypatch, capsys, "status", "-c", str(file))
    assert (code, ":2: ledger.path: " in words, said in words) == (2, True, True), words


@pytest.mark.parametrize("command", ["status", "events --json", "--version", "status --help"])
@pytest.mark.parametrize(("to", "why"), [("/dev/full", "No space left on device"), ("&-", "it is closed")])
def test_output_that_nobody_takes(command: str, to: str, why: str, tmp_path: Path) -> None:
    filled(tmp_path / "ledger.db", 1)
    config = config_in(tmp_path)
    words = [*COMMAND, *command.split(), *([] if command.startswith("--") else ["-c", config])]
    done = subprocess.run(f"{shlex.join(words)} >{to}", shell=True, capture_output=True, text=True, check=False)
    told = done.stderr.split("\n")
    assert done.returncode == 1
    assert [line for line in told if why in line] == told[:-1]
    assert f"can't write to standard output: {why}" in done.stderr


class TestRestoreAndRepair:
    @pytest.mark.parametrize("command", ["restore copy.db --yes", "repair"])
    def test_a_ledger_that_is_served(
        self, command: str, tmp_path: Path, monkeypatch: Monkey, capsys: Capture
    ) -> None:
        monkeypatch.chdir(tmp_path)
        filled(tmp_path / "ledger.db", 1)
        filled(tmp_path / "copy.db", 1)
        with only_service(tmp_path / "ledger.db"):
            code, said = in_process(monkeypatch, capsys, *command.split(), "-c", config_in(tmp_path))
        assert (code, "has this ledger; stop it first" in said, "ledger.path" in said) == (1, True, False), said

    def test_a_damaged_copy(self, tmp_path: Path, monkeypatch: Monkey, capsys: Capture) -> None:
        filled(tmp_path / "whole.db", 300)
        whole = (tmp_path / "whole.db").read_bytes()
        page = 4096
        for name, data in (("middle", whole[: 8 * page] + b"\xff" * page + whole[9 * page :]),
                           ("cut", whole[: len(whole) // page // 2 * page])):  # fmt: skip
            copy = tmp_path / f"{name}.db"
            copy.write_bytes(data)
            code, said = in_process(monkeypatch, capsys, "restore", str(copy), "-c", config_in(tmp_path))
            assert (code, f"{name}.db: the file is damaged: " in said) == (1, True), said
            assert "; restore another copy" in said
            assert "repair" not in said

    @pytest.mark.parametrize("content", [b"receiver: {port: 0}\n" * 60, b"", None])
    def test_what_is_no_ledger(
        self, content: bytes | None, tmp_path: Path, monkeypatch: Monkey, capsys: Capture
    ) -> None:
        other = tmp_path / "other.db"
        if content is None:
            with closing(sqlite3.connect(other)) as db:
                db.execute("CREATE TABLE search (search)")  # whose name is one of ours
        else:
            other.write_bytes(content)
        before = other.read_bytes()
        code, said = in_process(monkeypatch, capsys, "restore", str(other), "-c", config_in(tmp_path))
        assert (code, "other.db: is no ledger: name a file that `backup` made" in said) == (1, True), said
        assert "ledger.path" not in said
        code, said = in_process(monkeypatch, capsys, "repair", "-c", config_in(tmp_path, "other.db"))
        assert (code, "is no ledger" in said or "is no SQLite database" in said) == (1, True), said
        assert other.read_bytes() == before


class TestPorts:
    @pytest.fixture
    def taken(self) -> Iterator[int]:
        with socket.create_server(("127.0.0.1", 0)) as one:
            yield one.getsockname()[1]

    @pytest.mark.parametrize("section", ["receiver", "admin", "metrics"])
    def test_one_that_another_process_has(
        self, section: str, taken: int, tmp_path: Path, monkeypatch: Monkey, capsys: Capture
    ) -> None:
        if section == "receiver":
            config = config_in(tmp_path, receiver_port=taken)
        else:
            config = config_in(tmp_path, more=f"{section}: {{port: {taken}}}\n")
        monkeypatch.setattr(sys, "argv", ["gitlab-reconciler", "check", "--json", "-c", config])
        what = f"{section}: port {taken} of 127.0.0.1"

        def found() -> list[tuple[str, bool, str | None]]:
            assert ending(command_line(), prog_name="gitlab-reconciler") == 1  # there is no token
            told = json.loads(capsys.readouterr().out)
            return [(one["what"], one["ok"], one["advice"]) for one in told if one["what"].startswith(what)]

        advice = f"`serve` can't listen there: Address already in use; see {section}.host and {section}.port"
        assert found() == [(what, False, advice)]
        with only_service(tmp_path / "ledger.db"):  # whose it may be
            assert found() == [(f"{what} is in use by the running service (process {os.getpid()})", True, None)]

    def test_serve_says_the_address_once(
        self, taken: int, tmp_path: Path, monkeypatch: Monkey, capsys: Capture
    ) -> None:
        with pytest.raises(ServiceError) as told:
            listen("127.0.0.1", taken)
        assert str(told.value) == (
            f"can't listen on 127.0.0.1:{taken}: Address already in use; see receiver.host and receiver.port"
        )
