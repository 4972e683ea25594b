"""The processes of the service: a receiver and a worker, forked from a parent that does nothing but start them.

The receiver goes on while the worker restarts, hangs or upgrades the ledger, and the other way round. The parent
has the receiver's socket, so no connection is refused while the receiver restarts.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from reconciler.config.models import Config
from reconciler.service.changes import fixed_keys
from reconciler.service.forking import until_alone
from reconciler.service.notify import notify
from reconciler.service.port import ReceiverPort
from reconciler.service.role import Link, Role, Said
from reconciler.supervisor import next_pause

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = {"receiver": 1.0, "worker": 30.0}
WELL_AFTER_S = 10.0
SILENCE_S = 60.0
"""A process that reports nothing for this long hangs: it is killed and restarted, but not before one was ready."""
STOP_S = {"receiver": 25.0, "worker": 30.0}
"""A process that still runs this long after it was asked to stop is killed; the receiver, after its `shutdown_delay`.
"""
LATE_S = 5.0
"""A parent that was held up for this long (stopped, or paused with its container) received no reports."""
RELOAD_PATIENCE_S = 10.0
NOTIFY_S = 10.0
CHECK_INTERVAL_S = 1.0
RECEIVER, WORKER = "receiver", "worker"

log = structlog.get_logger(__name__)


@dataclass
class _Process:
    """A process that is to run."""

    name: str
    pid: int = 0
    """0 if it does not run."""
    ours: socket.socket | None = None
    is_kept: bool = False
    """Whether it is started again when it ends: it, or one before it, was ready. A worker is too if it was killed."""
    is_ready: bool = False
    heard_at: float = 0.0
    started_at: float = 0.0
    start_at: float = 0.0
    pause_s: float = 0.0
    kill_at: float | None = None
    """It was asked to stop, and has until then."""


def split(
    config: Config, read_again: Callable[[], Config], *, silence_s: float = SILENCE_S
) -> tuple[Role, Config] | int:
    """Run the service in its processes. One that says nothing for `silence_s` is killed and started again, if it, or
    one before it, was ready.

    Returns more than once: in the parent, when all have ended, the exit code; in each process, its role and its
    config, which is the one of the last successful reload. Raises ServiceError if the receiver's port can't be bound.
    """
    parent = _Parent(config, read_again, silence_s)
    role = parent.run()
    return role if isinstance(role, int) else (role, parent.config)


class _Parent:
    def __init__(self, config: Config, read_again: Callable[[], Config], silence_s: float) -> None:
        self.config = config
        self._read_again = read_again
        self._silence_s = silence_s
        self._port = ReceiverPort(config.receiver.host, config.receiver.port)
        self._link = Link.make()
        self._processes = {name: _Process(name) for name in (RECEIVER, WORKER)}
        self._stopping = False
        self._code = 0
        self._reloading: float | None = None
        """Until when the worker's reload waits for the receiver's."""
        self._read: Config | None = None
        """What a reload has read, until the worker says whether it is used."""
        self._is_ready = False
        self._notified_at = 0.0
        self._looked_at = time.monotonic()
        self._waiting = selectors.DefaultSelector()
        self._signals, wake = socket.socketpair()
        self._signals.setblocking(False)
        wake.setblocking(False)
        self._wake = wake

    def run(self) -> Role | int:
        """Start the processes and look after them until they have ended."""
        for number in _SIGNALS:
            signal.signal(number, _remember)
        signal.set_wakeup_fd(self._wake.fileno())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)  # the command line holds SIGHUP back
        self._waiting.register(self._signals, selectors.EVENT_READ, self._on_signal)
        while True:
            for one in self._processes.values():
                if not (one.pid or self._stopping) and time.monotonic() >= one.start_at:
                    role = self._fork(one)
                    if role is not None:
                        return role
            if self._stopping and not any(one.pid for one in self._processes.values()):
                return self._code
            for key, _ in self._waiting.select(self._pause()):
                key.data()
            self._look()

    def _fork(self, one: _Process) -> Role | None:
        """Start a process. Returns its role in that process, None in this one."""
        if one.name == RECEIVER:
            self._port.listen_again()
        until_alone()  # a config was read in a thread
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # until the new process has no handlers of the parent
        try:
            ours, theirs = socket.socketpair()
            pid = os.fork()
        except OSError as error:  # no memory, or too many processes or files
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            self._pause_before(one)
            log.error("process not started: tried again", process=one.name, pause_s=one.pause_s, error=str(error))
            return None
        if pid == 0:
            signal.set_wakeup_fd(-1)
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all: the parent stops them in order
            signal.pthread_sigmask(signal.SIG_UNBLOCK, set(_SIGNALS) - {signal.SIGHUP})  # see `Role.take_reloads`
            self._leave(ours)
            if one.name != RECEIVER:
                self._port.close()
            where = self._port
            return Role(one.name, parent=theirs, link=self._link, listener=where.listener, port=where.number)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        theirs.close()
        ours.setblocking(False)
        one.pid, one.ours, one.is_ready = pid, ours, False
        one.started_at = one.heard_at = time.monotonic()
        self._waiting.register(ours, selectors.EVENT_READ, lambda: self._hear(one))
        log.debug("process started", process=one.name, pid=pid)
        return None

    def _leave(self, ours: socket.socket) -> None:
        """In a new process: close what is the parent's."""
        self._waiting.close()
        for one in (ours, self._signals, self._wake, *(other.ours for other in self._processes.values())):
            if one is not None:
                one.close()

    def _pause(self) -> float:
        """The seconds until something is to be done even if nothing happens."""
        now = time.monotonic()
        waits = [one.start_at - now for one in self._processes.values() if not (one.pid or self._stopping)]
        return max(0.0, min([CHECK_INTERVAL_S, *waits]))

    def _on_signal(self) -> None:
        for number in self._signals.recv(4096):
            if number in (signal.SIGTERM, signal.SIGINT):
                self._stop()
            elif number == signal.SIGHUP:
                self._reload()
            elif number == signal.SIGCHLD:
                self._reap()

    def _stop(self) -> None:
        """Stop the receiver, then the worker; at once if asked a second time."""
        if self._stopping:
            self._send(RECEIVER, signal.SIGQUIT)
            self._send(WORKER, signal.SIGQUIT)
            return
        self._stopping = True
        notify("STOPPING=1")
        self._port.close()  # the receiver has it too: who connects after its end is refused, not left waiting
        self._stop_process(RECEIVER if self._processes[RECEIVER].pid else WORKER)

    def _stop_process(self, name: str) -> None:
        delay = self.config.receiver.shutdown_delay if name == RECEIVER else None
        self._processes[name].kill_at = time.monotonic() + (delay or 0) / 1000 + STOP_S[name]
        self._send(name, signal.SIGTERM)

    def _reload(self) -> None:
        """Have the receiver read the config, then the worker, which reports the result. Read it here too, for
        processes that are started later.
        """
        self._send(RECEIVER, signal.SIGHUP)
        self._reloading = time.monotonic() + (RELOAD_PATIENCE_S if self._processes[RECEIVER].pid else 0.0)
        try:
            self._read = self._read_again()
        except (Exception, SystemExit) as error:  # the processes log why
            self._read = None
            log.debug("config not read by the parent", error=repr(error))
        if self._read is not None and fixed_keys(self.config, self._read, self._port.number):
            self._read = None

    def _reloaded(self, *, refused: bool) -> None:
        """The worker uses the config that was read, or has refused it."""
        if self._read is not None and not refused:
            self.config = self._read
        self._read = None

    def _hear(self, one: _Process) -> None:
        try:
            said = one.ours.recv(4096) if one.ours is not None else b""
        except (BlockingIOError, ConnectionResetError):
            return
        if not said and one.ours is not None:
            with contextlib.suppress(KeyError):
                self._waiting.unregister(one.ours)
        one.heard_at = time.monotonic()
        for what in (Said(bytes([byte])) for byte in said):
            if what is Said.READY:
                one.is_ready = one.is_kept = True
            elif what is Said.STARTING and not self._is_ready:
                notify("EXTEND_TIMEOUT_USEC=60000000")
            elif what in (Said.RELOADED, Said.REFUSED):
                if one.name == WORKER:
                    self._reloaded(refused=what is Said.REFUSED)
                elif self._reloading is not None:
                    self._reloading = 0.0  # the worker reads it in any case, and says what it thinks of it
                    if what is Said.REFUSED:
                        self._read = None

    def _look(self) -> None:
        """Do what is due."""
        self._reap()  # a signal that finds the wakeup descriptor full is not told
        now = time.monotonic()
        was_late, self._looked_at = now - self._looked_at > CHECK_INTERVAL_S + LATE_S, now
        if self._reloading is not None and now >= self._reloading:
            self._reloading = None
            self._send(WORKER, signal.SIGHUP)
            if not self._processes[WORKER].pid:  # the next one begins with it
                self._reloaded(refused=False)
        for one in self._processes.values():
            if one.pid and one.is_ready and now - one.started_at >= WELL_AFTER_S:
                one.pause_s = 0.0
            if was_late:
                one.heard_at = now
            if one.pid and one.is_kept and now - one.heard_at > self._silence_s:
                log.error("process does not answer: it is killed and started again", process=one.name, pid=one.pid)
                one.heard_at = now
                self._send(one.name, signal.SIGKILL)
            if one.pid and one.kill_at is not None and now >= one.kill_at:
                log.error("process does not stop: it is killed", process=one.name, pid=one.pid)
                one.kill_at = None
                self._send(one.name, signal.SIGKILL)
        if not self._is_ready and self._processes[RECEIVER].is_ready:  # the worker may upgrade the ledger for an hour
            self._is_ready = True
            notify("READY=1")
        if self._is_ready and now - self._notified_at >= NOTIFY_S:
            self._notified_at = now
            notify("WATCHDOG=1")

    def _reap(self) -> None:
        """Note which processes have ended, and decide what follows."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            for one in self._processes.values():
                if one.pid == pid:
                    self._ended(one, os.waitstatus_to_exitcode(status))

    def _ended(self, one: _Process, code: int) -> None:
        self._hear(one)  # its last report
        one.pid = 0
        if one.ours is not None:
            with contextlib.suppress(KeyError):
                self._waiting.unregister(one.ours)
            one.ours.close()
            one.ours = None
        if one.name == WORKER and self._reloading is None:
            self._reloaded(refused=False)  # it ended in the middle of a reload: the next one begins with the config
        if self._stopping:
            if one.name == RECEIVER:
                self._stop_process(WORKER)
            if code not in (0, -signal.SIGTERM, -signal.SIGQUIT):  # before it could take the signal, it ended by it
                self._code = self._code or max(code, 1)
        elif not one.is_kept and (code >= 0 or one.name == RECEIVER):  # it has logged why
            self._code = max(code, 1)
            self._stop()
        else:
            one.is_kept = True
            self._pause_before(one)
            self._link.counts.restarted(one.name)
            how = {"signal": _signal_name(-code)} if code < 0 else {"code": code}
            log.error("process exited unexpectedly: restarting it", process=one.name, pause_s=one.pause_s, **how)

    def _pause_before(self, one: _Process) -> None:
        """Pause before a process is started again, longer each time."""
        one.pause_s = next_pause(one.pause_s, first=FIRST_PAUSE_S, longest=LONGEST_PAUSE_S[one.name])
        one.start_at = time.monotonic() + one.pause_s

    def _send(self, name: str, number: int) -> None:
        if pid := self._processes[name].pid:
            os.kill(pid, number)


def _signal_name(number: int) -> str:
    """A signal's name; real-time signals have none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"{number}"


_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


def _remember(number: int, frame: object) -> None:
    """The wakeup descriptor has it."""
