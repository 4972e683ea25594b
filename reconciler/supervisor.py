"""Keeps the parts of the service running: a part that fails is logged and restarted, without affecting the others."""

from __future__ import annotations

import asyncio
import contextlib
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable

import structlog

from reconciler.events import times
from reconciler.events.times import Millis
from reconciler.ledger.errors import LedgerError, LedgerUnavailable
from reconciler.ledger.ledger import Ledger
from reconciler.ledger.upkeep.failing_parts import Part

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 60.0
WELL_AFTER_S = 10.0
"""How long a part must run before it counts as recovered, in seconds."""

ERROR_LENGTH = 500
NOTE_PAUSE_S = 1.0

log = structlog.get_logger(__name__)

Run = Callable[[], Awaitable[object]]


class _Watched:
    """The state of a part."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.failing_since: Millis | None = None
        self.restarts = 0
        self.error = ""
        self.pause_s = 0.0
        self.logged: set[str] = set()


class Supervisor:
    """Runs parts. `start` is for a part that runs all the time, `until_done` for one that ends, `turn` for one run of
    a part that something else schedules, `note` for a failure that something else found. `forget` removes a part.
    `on_error` is called with each error of a part.
    """

    def __init__(self, *, longest_pause_s: float = LONGEST_PAUSE_S, well_after_s: float = WELL_AFTER_S) -> None:
        self._longest_pause_s = longest_pause_s
        self._well_after_s = well_after_s
        self._watched: dict[str, _Watched] = {}
        self._changed = asyncio.Event()
        self.on_error: Callable[[BaseException], None] | None = None

    def parts(self) -> list[Part]:
        """All parts by name. `error` is empty if the part never failed."""
        return [Part(name, one.failing_since, one.restarts, one.error) for name, one in sorted(self._watched.items())]

    def start(self, name: str, run: Run, *, longest_pause_s: float | None = None) -> asyncio.Task[None]:
        """Run a part all the time. The task ends only when it is cancelled."""
        one = self._of(name)
        return asyncio.create_task(self._for_ever(one, run, longest_pause_s or self._longest_pause_s), name=name)

    def until_done(self, name: str, run: Run, *, stopping: asyncio.Event | None = None) -> asyncio.Task[None]:
        """Run a part until it ends without an error. Once `stopping` is set, it is run at most once more."""
        return asyncio.create_task(self._until_done(self._of(name), run, stopping or asyncio.Event()), name=name)

    async def turn(self, name: str, run: Run) -> None:
        """Run a scheduled part once, and note its failure or success. Never raises."""
        one = self._of(name)
        if await self._attempt(one, run, self._longest_pause_s, restarts=False):
            self._well(one)

    def note(self, name: str, reason: str | None) -> None:
        """Note why a part fails, or (None) that it works again."""
        if reason is None:
            self._well(self._of(name))
        else:
            self._fails(self._of(name), reason)

    def well(self, name: str) -> None:
        """Note that a part works."""
        self._well(self._of(name))

    def forget(self, name: str) -> None:
        """Remove a part that has ended."""
        if self._watched.pop(name, None) is not None:
            self._changed.set()

    async def report(self, ledger: Ledger) -> None:
        """Keep the failing parts in the ledger up to date. Never ends."""
        while True:
            self._changed.clear()
            found = [part for part in self.parts() if part.error]
            try:
                await ledger.note_parts(found)
            except LedgerError:  # logged by the writer
                await asyncio.sleep(NOTE_PAUSE_S)
                continue
            await self._changed.wait()

    async def _for_ever(self, one: _Watched, run: Run, longest_pause_s: float) -> None:
        while True:
            async with self._well_after_a_while(one):
                ended_well = await self._attempt(one, run, longest_pause_s)
            if ended_well:
                self._note_failure(one, RuntimeError("it ended by itself"), longest_pause_s)
            await asyncio.sleep(one.pause_s)

    async def _until_done(self, one: _Watched, run: Run, stopping: asyncio.Event) -> None:
        is_last = False
        while not is_last:
            is_last = stopping.is_set()
            async with self._well_after_a_while(one):
                ended_well = await self._attempt(one, run, self._longest_pause_s, restarts=not is_last)
            if ended_well:
                self._well(one)
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(one.pause_s):
                    await stopping.wait()

    async def _attempt(self, one: _Watched, run: Run, longest_pause_s: float, *, restarts: bool = True) -> bool:
        """Run a part once. Returns whether it ended without an error."""
        try:
            await run()
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            self._note_failure(one, error, longest_pause_s, restarts=restarts)  # it cancelled itself
        except (Exception, SystemExit) as error:  # a library may call sys.exit
            self._note_failure(one, error, longest_pause_s, restarts=restarts)
        else:
            return True
        return False

    def _note_failure(
        self, one: _Watched, error: BaseException, longest_pause_s: float, *, restarts: bool = True
    ) -> None:
        if self.on_error is not None:
            self.on_error(error)
        self._fails(one, words(error))
        one.restarts += restarts
        one.pause_s = next_pause(one.pause_s, first=FIRST_PAUSE_S, longest=longest_pause_s)
        kind = f"{type(error).__name__} {traceback.extract_tb(error.__traceback__)[-1:]}"
        first = kind not in one.logged and not isinstance(error, LedgerUnavailable)  # logged by the writer
        one.logged.add(kind)
        about = {"part": one.name, "error": one.error, "exc_info": error if first else None}
        if restarts:
            log.error("part restarted", pause_s=one.pause_s, **about)
        else:
            log.error("part failed, will run again as scheduled", **about)

    def _fails(self, one: _Watched, reason: str) -> None:
        one.failing_since = one.failing_since or times.now()
        one.error = writable(reason)
        self._changed.set()

    def _well(self, one: _Watched) -> None:
        one.pause_s = 0.0
        if one.failing_since is not None:
            one.failing_since = None
            log.info("part recovered", part=one.name)
            self._changed.set()

    @contextlib.asynccontextmanager
    async def _well_after_a_while(self, one: _Watched) -> AsyncIterator[None]:
        timer = asyncio.get_running_loop().call_later(self._well_after_s, self._well, one)
        try:
            yield
        finally:
            timer.cancel()

    def _of(self, name: str) -> _Watched:
        return self._watched.setdefault(name, _Watched(name))


def writable(text: str) -> str:
    """An error's text, cut to the stored length and encodable anywhere."""
    return text[:ERROR_LENGTH].encode("utf-8", "replace").decode()


def next_pause(last: float, *, first: float, longest: float) -> float:
    """The pause after another failure: twice the one before, at most `longest`."""
    return min(last * 2 or first, longest)


def words(error: BaseException) -> str:
    """An error as text, even if its own `__str__` fails."""
    try:
        said = str(error)
    except Exception:  # `__str__` may raise anything
        said = ""
    return writable(f"{type(error).__name__}: {said}" if said else type(error).__name__)
