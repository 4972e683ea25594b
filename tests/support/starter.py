"""Starts `gitlab-reconciler` as a process of its own, without paying for Python's start and the imports each time.

`START` is a process that has imported everything and runs nothing. A command is a fork of it with its own arguments,
environment, folder and descriptors: a real process, which can be killed, traced and limited, in a hundredth of the
CPU time. The tests of a package, of `--version` and of a terminal start the installed command itself.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import json
import os
import runpy
import select
import selectors
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "reconciler"]
DESCRIPTORS = 3
LENGTH = struct.Struct("!I")


class Started:
    """A process that was started: as much of `subprocess.Popen` as tests use."""

    def __init__(self, connection: socket.socket, stdout: IO[str] | None, stderr: IO[str] | None) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self.stdout = stdout
        self.stderr = stderr
        self.returncode: int | None = None
        self.pid: int = _number(connection)

    def poll(self) -> int | None:
        """Its exit code, or minus the signal that ended it; None while it runs."""
        with self._lock:
            if self.returncode is None and _readable(self._connection, 0):
                self.returncode = os.waitstatus_to_exitcode(_number(self._connection))
                self._connection.close()
            return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end. Raises `subprocess.TimeoutExpired`."""
        if self.poll() is None:
            with contextlib.suppress(ValueError, OSError):  # another thread has seen its end
                _readable(self._connection, timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired("gitlab-reconciler", timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


class Starter:
    """Starts commands. The process that is forked begins with the first of them."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._ours: socket.socket | None = None
        self._lock = threading.Lock()

    def start(
        self,
        *arguments: str,
        stdin: int | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
        env: dict[str, str],
        module: str = "reconciler",
    ) -> Started:
        """Start `gitlab-reconciler ARGUMENTS`, or another module's main program.

        `stdout` and `stderr`: a descriptor, `subprocess.PIPE`, or None for the test's own. `stdin`: a descriptor, or
        None for nothing.
        """
        ours, theirs = socket.socketpair()
        closing: list[int] = []
        try:
            null = os.open(os.devnull, os.O_RDWR)
            closing.append(null)
            out, read_out = _end(stdout, 1, closing)
            err, read_err = _end(stderr, 2, closing)
            given = [null if stdin is None else stdin, out, err, theirs.fileno()]
            asked = json.dumps(
                {"arguments": arguments, "env": env, "folder": str(Path.cwd()), "module": module}
            ).encode()
            with self._lock:
                socket.send_fds(self._connected(), [LENGTH.pack(len(asked))], given)
                self._connected().sendall(asked)
        finally:
            theirs.close()
            for number in closing:
                os.close(number)
        return Started(ours, read_out, read_err)

    def _connected(self) -> socket.socket:
        if self._ours is None or self._process is None or self._process.poll() is not None:
            self._ours, theirs = socket.socketpair()
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "tests.support.starter", str(theirs.fileno())],
                    cwd=ROOT,
                    pass_fds=[theirs.fileno()],
                )
        return self._ours


def _end(wanted: int | None, own: int, closing: list[int]) -> tuple[int, IO[str] | None]:
    """The descriptor that the process gets, and what a test reads of it."""
    if wanted is None:
        return own, None
    if wanted == subprocess.PIPE:
        read, write = os.pipe()
        closing.append(write)
        return write, os.fdopen(read, encoding="utf-8")
    if wanted == subprocess.DEVNULL:
        return closing[0], None
    return wanted, None


def _readable(connection: socket.socket, timeout_s: float | None) -> bool:
    poll = select.poll()  # select() knows no descriptor above 1023
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(None if timeout_s is None else timeout_s * 1000))


def _number(connection: socket.socket) -> int:
    found = b""
    while len(found) < LENGTH.size:
        more = connection.recv(LENGTH.size - len(found))
        if not more:
            raise EOFError("the process that starts commands has ended")
        found += more
    return int(LENGTH.unpack(found)[0])


START = Starter()


# The process that is forked.


def _serve(asking: socket.socket) -> str | None:
    """Fork what is asked for until nobody can ask any more. In a fork: the module that it is to run."""
    _import_all()
    gc.collect()
    gc.freeze()  # the collector of a fork need not look at it, which would copy its pages
    running: dict[int, socket.socket] = {}
    woken, wake = socket.socketpair()
    woken.setblocking(False)
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    waiting = selectors.DefaultSelector()
    waiting.register(asking, selectors.EVENT_READ)
    waiting.register(woken, selectors.EVENT_READ)
    while True:
        ready = [key.fileobj for key, _ in waiting.select()]
        if woken in ready:
            woken.recv(4096)
            _report_the_ended(running)
        if asking not in ready:
            continue
        head, given, _, _ = socket.recv_fds(asking, LENGTH.size, DESCRIPTORS + 1)
        if not head:
            return None
        asked = json.loads(asking.recv(LENGTH.unpack(head)[0], socket.MSG_WAITALL))
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            waiting.close()
            for one in (asking, woken, wake, *running.values()):
                one.close()
            _become(asked, given)
            return str(asked["module"])
        for number in given[:DESCRIPTORS]:
            os.close(number)
        reporting = socket.socket(fileno=given[DESCRIPTORS])
        reporting.sendall(LENGTH.pack(pid))
        running[pid] = reporting


def _report_the_ended(running: dict[int, socket.socket]) -> None:
    for pid in list(running):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            with running.pop(pid) as reporting, contextlib.suppress(BrokenPipeError):  # nobody waits for it
                reporting.sendall(LENGTH.pack(status))


def _become(asked: dict[str, Any], given: Sequence[int]) -> None:
    """Take over a command's arguments, environment, folder and descriptors."""
    for number in range(DESCRIPTORS):
        os.dup2(given[number], number)
    for number in given:
        os.close(number)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    faulthandler.enable(2)  # a crash shows on the command's stderr what each thread was doing
    os.environ.clear()
    os.environ.update(asked["env"])
    time.tzset()
    os.chdir(asked["folder"])
    sys.path[1:1] = [
        one for one in asked["env"].get("PYTHONPATH", "").split(os.pathsep) if one and one not in sys.path
    ]
    sys.argv = [asked["module"], *asked["arguments"]]
    for name in [name for name in sys.modules if name.startswith("reconciler.cli")]:
        del sys.modules[name]  # its consoles have looked at the environment


def _import_all() -> None:
    from importlib import import_module

    from reconciler.cli.app import COMMANDS

    for module in COMMANDS.values():
        import_module(f"reconciler.cli.{module.partition(':')[0]}")
    import_module("reconciler.service.worker")


if __name__ == "__main__" and (wanted := _serve(socket.socket(fileno=int(sys.argv[1])))):
    runpy.run_module(wanted, run_name="__main__", alter_sys=True)
