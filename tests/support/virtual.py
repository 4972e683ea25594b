"""Time that passes only when everybody waits: a test of an hour takes a moment, and goes the same way each time."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

BEGAN_NS = 1_790_000_000_000_000_000
"""When virtual time begins, by the wall clock."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop that jumps to its next timer when nothing is left to do."""

    def __init__(self) -> None:
        self._elapsed_ns = 0
        super().__init__(_Jumping(self._jump))

    def time(self) -> float:
        """Seconds since it was made."""
        return self._elapsed_ns / 1e9

    def monotonic_ns(self) -> int:
        """As time.monotonic_ns."""
        return self._elapsed_ns

    def run_in_executor(self, executor: Executor | None, func: Callable[..., Any], *args: Any) -> Any:  # type: ignore[override]  # it runs at once
        """What runs on a thread takes no time."""
        if isinstance(executor, VirtualDisk):
            return super().run_in_executor(executor, func, *args)
        done = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:
            done.set_exception(error)
        return done

    def _jump(self, seconds: float) -> None:
        self._elapsed_ns += max(1, round(seconds * 1e9))


class _Jumping(selectors.DefaultSelector):
    def __init__(self, jump: Callable[[float], None]) -> None:
        super().__init__()
        self._jump = jump

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "everything waits, and nothing will ever happen"
            if timeout > 0:
                self._jump(timeout)
        return ready


class WallClock:
    """A wall clock that goes with a loop, and can be set."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._set_by_ns = 0

    def time_ns(self) -> int:
        """As time.time_ns."""
        return BEGAN_NS + self._set_by_ns + self._loop.monotonic_ns()

    def step(self, ms: int) -> None:
        """Set it forward, or back."""
        self._set_by_ns += ms * 1_000_000

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """What asks for the time is told this."""
        with patch("time.time_ns", self.time_ns), patch("time.monotonic_ns", self._loop.monotonic_ns):
            yield


class VirtualDisk(Executor):
    """Runs what it is given, on the loop's own thread, a virtual moment later."""

    def __init__(self, loop: VirtualLoop, *, latency_s: Callable[[], float], done: Callable[[], None]) -> None:
        self._loop = loop
        self._latency_s = latency_s
        self._done = done

    def submit(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Do `work` later."""
        future: Future[Any] = Future()

        def run() -> None:
            try:
                result = work(*args, **kwargs)
            except BaseException as error:
                future.set_exception(error)
            else:
                self._done()
                future.set_result(result)

        self._loop.call_later(self._latency_s(), run)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """There is nothing to end."""
