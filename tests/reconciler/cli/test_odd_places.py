"""Files that are none, ledgers that are none, output that nobody takes, ports that are taken."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from tests.reconciler.cli.test_as_a_stranger import in_process
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
