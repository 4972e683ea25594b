"""Runs a template or a JMESPath expression in a process of its own, with limits (see `jailed`). It can be killed.

The process starts with the first event, and again after an event that ended it.
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
"""The only variables that the process gets: the environment may hold secrets."""
_START = "import sys; sys.path[:] = sys.argv[1:]; from reconciler.forwarding.jailed import main; main()"
_TOO_LONG = f"it takes more than {jailed.CPU_S:g} s of CPU time: is there an endless loop?"


class TransformFailed(Exception):
    """This event can't be transformed. The message says why."""


_FROM_OUTSIDE = frozenset({-signal.SIGKILL, -signal.SIGTERM, -signal.SIGALRM})
"""It was killed from outside (by the kernel, when memory is short), or got no CPU time for a long time."""
_OUT_OF_MEMORY = frozenset({-signal.SIGSEGV, -signal.SIGABRT})
"""How C libraries end when they get no memory."""


class _Died(Exception):
    """The process ended for an unknown reason."""


class _Unavailable(OSError):
    """No process can be started, or it was killed from outside. The event is not the cause, and it is temporary."""


class Jail:
    """One transform in its process. Calls from several threads run one after the other."""

    def __init__(self, language: Language, text: str) -> None:
        self._language = language
        self._text = text
        self._process: _Process | None = None
        self._closed = False
        self._turn = threading.Lock()
        self._starting = threading.Lock()

    def __call__(self, event: dict[str, Any], payload: str) -> bytes:
        """Transform an event. Returns the new body.

        Raises TransformFailed if the transform fails for this event or the event ends its process; OSError if no
        process can be started or it was killed from outside.
        """
        asked = (json.dumps(event).encode(), payload.encode("utf-8", "surrogatepass"))
        try:
            with self._turn:
                return self._ask(*asked)
        finally:
            if self._closed:
                self._disconnect()

    def close(self) -> None:
        """Kill the process."""
        with self._starting:
            self._closed = True
            if self._process is not None:
                self._process.kill()
        self._disconnect()

    def _ask(self, event: bytes, payload: bytes) -> bytes:
        try:
            return self._running().ask(event, payload)
        except (_Died, _Unavailable):  # maybe not because of this event: it may have ended before
            pass
        try:
            return self._running().ask(event, payload)
        except _Died as error:
            raise TransformFailed(f"{self._language}: its process died twice: {error}") from None

    def _disconnect(self) -> None:
        """Close the connection to a killed process, unless a call still reads from it: that call then closes it."""
        if self._turn.acquire(blocking=False):
            try:
                if self._process is not None:
                    self._process.disconnect()
            finally:
                self._turn.release()

    def _running(self) -> _Process:
        with self._starting:
            if self._closed:
                raise _Unavailable("the transform was closed")
            if self._process is None or not self._process.alive:
                if self._process is not None:
                    self._process.disconnect()
                self._process = _Process(self._language, self._text)
            return self._process


class _Process:
    """The process of one transform. Raises OSError if it can't be started."""

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
        self._transform = (language.encode(), text.encode("utf-8", "surrogatepass"))
        self._ready = False
        self._memory = 0

    @property
    def alive(self) -> bool:
        """Whether it can take an event."""
        return not self._answers.closed and self._process.poll() is None

    def ask(self, event: bytes, payload: bytes) -> bytes:
        """Transform one event. Raises TransformFailed, after which the process may still run; _Died or OSError
        if it has ended.
        """
        self._memory = max(self._memory, jailed.memory_for(payload))
        try:
            if not self._ready:
                self._begin()
            self._send(event, payload)
            what, content = jailed.read(self._answers)
        except (OSError, EOFError) as error:
            raise self._end(error) from None
        if what == jailed.FAILED:
            raise TransformFailed(content.decode())
        return content

    def _begin(self) -> None:
        """Send the transform, and wait until the process is ready."""
        self._send(*self._transform)
        jailed.read(self._answers)
        self._ready = True

    def _send(self, *parts: bytes) -> None:
        self._line.sendall(b"".join(jailed.frame(0, part) for part in parts))

    def kill(self) -> None:
        """Kill it. Whoever waits for its answer gets an error."""
        self._process.kill()
        self._process.wait()

    def disconnect(self) -> None:
        """Close our end of the connection."""
        self._answers.close()
        self._line.close()

    def _end(self, error: Exception) -> Exception:
        """The error that says how the process ended."""
        self.disconnect()
        if isinstance(error, TimeoutError):
            self.kill()
            return _Unavailable(f"{self._language}: no answer within {PATIENCE_S:g} s")
        code = self._process.wait()
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        if not self._ready:
            return _Unavailable(f"{self._language}: its process does not start: {how}")
        if code in _FROM_OUTSIDE:
            return _Unavailable(f"{self._language}: its process was killed: {how}")
        if code == -signal.SIGPROF:
            return TransformFailed(f"{self._language}: {_TOO_LONG}")
        if code in _OUT_OF_MEMORY:
            return TransformFailed(f"{self._language}: {jailed.too_little(self._memory)}")
        return _Died(how)
