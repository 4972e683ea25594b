"""Processes that write to a terminal, and what should not reach it."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import termios
import threading
from pathlib import Path
from typing import Any, Self

from tests.support.service import until
from tests.support.starter import START, Started

ROOT = Path(__file__).parents[2]

NASTY = "".join(map(chr, [*range(0x20), *range(0x7F, 0xA0), 0xAD, 0x200B, 0x202E, 0x2028, 0x2066, 0xFEFF, 0xD800]))
NASTY = "\x1b]0;title\x07 \x1b[2J " + NASTY + " [b] [/] :b:"
"""What a terminal acts on or hides: ESC sequences, C0, C1, no width, directions, a lone surrogate; and markup."""


class Running:
    """A Python process whose stderr, and stdout and stdin if asked, is a pipe or a terminal; its output is kept."""

    def __init__(
        self, *command: str, terminal: bool = False, stdout: bool = False, stdin: bool = False, columns: int = 200
    ) -> None:
        read_end, write_end = pty.openpty() if terminal else os.pipe()
        environ = {**os.environ, "PYTHONUNBUFFERED": "1", "NO_COLOR": "1", "COLUMNS": str(columns), "TERM": "dumb"}
        to = write_end if stdout else None
        self._process: Started | subprocess.Popen[bytes]
        if command[0] == "-m":
            given = write_end if stdin else None
            self._process = START.start(
                *command[2:], module=command[1], stdin=given, stdout=to, stderr=write_end, env=environ
            )
        else:
            self._process = subprocess.Popen(
                [sys.executable, *command], stdout=to, stderr=write_end, env=environ, cwd=ROOT
            )
        os.close(write_end)
        self._read_end = read_end
        self.logged = ""
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # a terminal's end
            while data := os.read(self._read_end, 65536):
                self.logged += data.decode("utf-8", "surrogateescape")

    def wait(self) -> int:
        """For its end; its exit code."""
        return self._process.wait(60)

    def line(self, event: str) -> dict[str, Any]:
        """Wait for a line of JSON that tells this."""

        def found() -> list[dict[str, Any]]:
            lines = self.logged[: self.logged.rfind("\n") + 1].splitlines()
            return [one for one in map(json.loads, lines) if one["event"] == event]

        until(lambda: bool(found()))
        return found()[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self._process.kill()
        self._process.wait(20)
        self._reading.join(20)
        os.close(self._read_end)


class Conversation(Running):
    """A command on a terminal that asks questions."""

    def __init__(self, *arguments: str) -> None:
        super().__init__("-m", "reconciler", *arguments, terminal=True, stdout=True, stdin=True)
        self._seen = 0

    def wait_for(self, text: str) -> None:
        """Wait until this was written after all that was waited for before."""
        until(lambda: text in self.logged[self._seen :])
        self._seen = self.logged.index(text, self._seen) + len(text)

    def answer(self, question: str, text: str) -> None:
        """Wait for a question, and type the answer to it."""
        self.wait_for(question)
        self.type(f"{text}\n")

    def type(self, keys: str) -> None:
        os.write(self._read_end, keys.encode())

    def interrupt(self) -> None:
        """What Ctrl-C does to the process, once it waits: just before, the signal would not end its read."""
        state = Path(f"/proc/{self._process.pid}/stat")
        until(lambda: state.read_text().rpartition(")")[2].split()[0] == "S")
        self._process.send_signal(signal.SIGINT)

    def shows_keys(self) -> bool:
        """Whether the terminal shows what is typed."""
        return bool(termios.tcgetattr(self._read_end)[3] & termios.ECHO)


def on_terminal(*arguments: str, columns: int = 200) -> str:
    """All that a command prints on a terminal."""
    with Running("-m", "reconciler", *arguments, terminal=True, stdout=True, columns=columns) as command:
        command.wait()
    return command.logged
