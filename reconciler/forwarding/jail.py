"""Runs a template or a JMESPath where it can be killed: in a process of its own, with limits (see `jailed`).

The process starts with the first event, and anew after one that ended it.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from typing import Any, Literal

from reconciler.forwarding import jailed

Language = Literal["template", "jmespath"]

PATIENCE_S = jailed.WALL_S + 5.0
_KEPT = ("LD_LIBRARY_PATH", "PATH")
"""Of the environment, which may have secrets in it."""
_START = "import sys; sys.path[:] = sys.argv[1:]; from reconciler.forwarding.jailed import main; main()"
_TOO_LONG = f"it takes more than {jailed.CPU_S:g} s of computing time: a loop without end?"


class TransformFailed(Exception):
    """This event can't be transformed. The message says why."""


class _Died(Exception):
    """The process ended, or does not answer, and why is not known."""


class Jail:
    """One transform in its process. Calls, from any thread, wait for one another."""

    def __init__(self, language: Language, text: str) -> None:
        self._language = language
        self._text = text
        self._process: _Process | None = None
        self._closed = False
        self._turn = threading.Lock()
        self._starting = threading.Lock()

    def __call__(self, event: dict[str, Any], payload: str) -> bytes:
        """What is sent instead of a body.

        Raises TransformFailed where it does not work for this event, or its process does not outlive it; OSError
        where no process can be started.
        """
        asked = (json.dumps(event).encode(), payload.encode("utf-8", "surrogatepass"))
        with self._turn:
            try:
                return self._running().ask(*asked)
            except _Died:  # perhaps not by this event's doing
                pass
            try:
                return self._running().ask(*asked)
            except _Died as error:
                raise TransformFailed(f"{self._language}: its process died twice: {error}") from None

    def close(self) -> None:
        """End the process, whatever it does."""
        with self._starting:
            self._closed = True
            if self._process is not None:
                self._process.kill()

    def _running(self) -> _Process:
        with self._starting:
            if self._closed:
                raise RuntimeError("the transform was given up")
            if self._process is None or not self._process.alive:
                self._process = _Process(self._language, self._text)
            return self._process


class _Process:
    """Raises OSError where it can't be started."""

    def __init__(self, language: Language, text: str) -> None:
        self._language = language
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(  # noqa: S603 - ourselves
                    [sys.executable, "-I", "-c", _START, *sys.path],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env={name: os.environ[name] for name in _KEPT if name in os.environ},
                )
            except BaseException:
                ours.close()
                raise
        ours.settimeout(PATIENCE_S)
        self._line = ours
        self._answers = ours.makefile("rb")
        self._first = [language.encode(), text.encode("utf-8", "surrogatepass")]

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return not self._answers.closed and self._process.poll() is None

    def ask(self, event: bytes, payload: bytes) -> bytes:
        """One event. Raises TransformFailed, or _Died; the process has ended then, or (TransformFailed) may have."""
        told, self._first = [*self._first, event, payload], []
        try:
            self._line.sendall(b"".join(jailed.frame(0, part) for part in told))
            verdict, content = jailed.read(self._answers)
        except (OSError, EOFError) as error:
            raise self._end(error) from None
        if verdict == jailed.FAILED:
            raise TransformFailed(content.decode())
        return content

    def kill(self) -> None:
        """End it, and whoever waits for its answer."""
        self._process.kill()
        self._process.wait()

    def _end(self, error: Exception) -> Exception:
        """What became of it."""
        self._answers.close()
        self._line.close()
        if isinstance(error, TimeoutError):
            self.kill()
            return _Died(f"no answer within {PATIENCE_S:g} s")
        code = self._process.wait()
        if code == -signal.SIGPROF:
            return TransformFailed(f"{self._language}: {_TOO_LONG}")
        return _Died(signal.Signals(-code).name if code < 0 else f"exit code {code}")
