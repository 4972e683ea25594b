"""A load balancer as simple as they come: it asks each copy whether it is ready, and tries nothing twice."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType

ASK_EVERY_S = 0.2
PATIENCE_S = 1.0


class Balancer:
    """`with Balancer([ports…]) as balancer:` passes each connection to `balancer.port` on to the next copy that was
    ready when it was last asked. If that copy refuses it, it is closed: a sender sees every refusal.
    """

    def __init__(self, ports: Sequence[int]) -> None:
        self._ports = list(ports)
        self._turn = itertools.count()
        self._ready: set[int] = set()
        self._open: Counter[int] = Counter()
        self._changed = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="balancer", daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    def wait_for(self, condition: Callable[[set[int]], bool], timeout_s: float = 30.0) -> bool:
        """Wait until something holds of the ports that are ready."""
        with self._changed:
            return self._changed.wait_for(lambda: condition(self._ready), timeout_s)

    def wait_until_left(self, port: int, timeout_s: float = 60.0) -> None:
        """Wait until a copy is not ready, and what was passed on to it is over."""
        assert self.wait_for(lambda ready: port not in ready and not self._open[port], timeout_s), "it is still used"

    def __enter__(self) -> Balancer:
        listening = threading.Event()
        self._loop.call_soon(lambda: self._start(self._listen(listening)))
        self._thread.start()
        listening.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        self._loop.run_forever()
        for task in self._tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*self._tasks, return_exceptions=True))
        self._server.close()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    def _start(self, run: asyncio.Future[None] | object) -> None:
        task: asyncio.Task[None] = self._loop.create_task(run)  # type: ignore[arg-type]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _listen(self, listening: threading.Event) -> None:
        self._server = await asyncio.start_server(self._take, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        for port in self._ports:
            self._start(self._ask(port))
        listening.set()

    async def _ask(self, port: int) -> None:
        while True:
            is_ready = False
            with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
                async with asyncio.timeout(PATIENCE_S):
                    is_ready = await _is_ready(port)
            with self._changed:
                (self._ready.add if is_ready else self._ready.discard)(port)
                self._changed.notify_all()
            await asyncio.sleep(ASK_EVERY_S)

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        ready = sorted(self._ready)
        try:
            if ready:
                port = ready[next(self._turn) % len(ready)]
                with self._counted(port):
                    far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
                    try:
                        await asyncio.gather(_pass_on(reader, far_writer), _pass_on(far_reader, writer))
                    finally:
                        far_writer.close()
        except OSError:
            pass
        finally:
            writer.close()

    @contextlib.contextmanager
    def _counted(self, port: int) -> Iterator[None]:
        self._open[port] += 1
        try:
            yield
        finally:
            with self._changed:
                self._open[port] -= 1
                self._changed.notify_all()


async def _is_ready(port: int) -> bool:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return b" 200 " in await reader.readuntil(b"\r\n")
    finally:
        writer.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
