"""Keeps the parts of a service running: one that fails starts again by itself, says so, and takes no other down."""

from __future__ import annotations

import asyncio
import contextlib
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable

import structlog

from reconciler.events import times
from reconciler.events.times import Millis
from reconciler.ledger.errors import LedgerError, LedgerUnavailable
from reconciler.ledger.parts import Part, note_parts
from reconciler.ledger.writer import Writer

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 60.0
WELL_AFTER_S = 10.0
"""How long a part must have run before it counts as well, and its next failure as a first one."""

ERROR_LENGTH = 500
NOTE_PAUSE_S = 1.0

log = structlog.get_logger(__name__)

Run = Callable[[], Awaitable[object]]


class _Watched:
    """What is known of a part."""

    def __init__(self) -> None:
        self.failing_since: Millis | None = None
        self.restarts = 0
        self.error = ""
        self.pause_s = 0.0
        self.logged: set[str] = set()


class Supervisor:
    """Runs parts. `start` is for one that runs for ever, `until_done` for one that ends; `turn` for one turn of
    what something else calls; `note` is for what somebody else found out. `on_error` is told each error of a part.
    """

    def __init__(self, *, longest_pause_s: float = LONGEST_PAUSE_S, well_after_s: float = WELL_AFTER_S) -> None:
        self._longest_pause_s = longest_pause_s
        self._well_after_s = well_after_s
        self._watched: dict[str, _Watched] = {}
        self._changed = asyncio.Event()
        self.on_error: Callable[[BaseException], None] | None = None

    def parts(self) -> list[Part]:
        """Every part that was ever started, well or not, by name. `error` is empty where it never failed."""
        return [Part(name, one.failing_since, one.restarts, one.error) for name, one in sorted(self._watched.items())]

    def start(self, name: str, run: Run, *, longest_pause_s: float | None = None) -> asyncio.Task[None]:
        """Run a part for ever. The task ends when it is cancelled, and only then."""
        return asyncio.create_task(self._for_ever(name, run, longest_pause_s or self._longest_pause_s), name=name)

    def until_done(self, name: str, run: Run) -> asyncio.Task[None]:
        """Run a part until it has ended well once."""
        return asyncio.create_task(self._until_done(name, run), name=name)

    async def turn(self, name: str, run: Run) -> None:
        """One turn of a part that is called again by itself: its failure is noted, its success too. Never raises."""
        if not await self._attempt(name, run, self._longest_pause_s, restarts=False):
            return
        self.well(name)

    def note(self, name: str, reason: str | None) -> None:
        """Somebody found out why a part fails, or (None) that it runs again."""
        if reason is None:
            self.well(name)
            return
        one = self._of(name)
        one.failing_since = one.failing_since or times.now()
        one.error = writable(reason)
        self._changed.set()

    def well(self, name: str) -> None:
        """A part runs."""
        one = self._of(name)
        one.pause_s = 0.0
        one.logged.clear()
        if one.failing_since is not None:
            one.failing_since = None
            log.info("a part runs again", part=name)
            self._changed.set()

    async def report(self, writer: Writer) -> None:
        """Keep the ledger's account of the parts: a part itself."""
        while True:
            self._changed.clear()
            found = [part for part in self.parts() if part.error]
            try:
                await writer.run(lambda db, found=found: note_parts(db, found))  # type: ignore[misc]
            except LedgerError:  # the writer has said so
                await asyncio.sleep(NOTE_PAUSE_S)
                continue
            await self._changed.wait()

    async def _for_ever(self, name: str, run: Run, longest_pause_s: float) -> None:
        self._of(name)
        while True:
            async with self._well_after_a_while(name):
                ended_well = await self._attempt(name, run, longest_pause_s)
            if ended_well:
                self._note_failure(name, RuntimeError("it ended by itself"), longest_pause_s)
            await self._pause(name)

    async def _until_done(self, name: str, run: Run) -> None:
        self._of(name)
        while not await self._attempt(name, run, self._longest_pause_s):
            await self._pause(name)
        self.well(name)

    async def _attempt(self, name: str, run: Run, longest_pause_s: float, *, restarts: bool = True) -> bool:
        """Whether it ended without an error."""
        try:
            await run()
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            self._note_failure(name, error, longest_pause_s, restarts=restarts)  # it cancelled itself
        except (Exception, SystemExit) as error:  # what a part imports may take itself for the program
            self._note_failure(name, error, longest_pause_s, restarts=restarts)
        else:
            return True
        return False

    def _note_failure(
        self, name: str, error: BaseException, longest_pause_s: float, *, restarts: bool = True
    ) -> None:
        one = self._of(name)
        if self.on_error is not None:
            self.on_error(error)
        self.note(name, words(error))
        one.restarts += restarts
        one.pause_s = next_pause(one.pause_s, first=FIRST_PAUSE_S, longest=longest_pause_s)
        kind = f"{type(error).__name__} {traceback.extract_tb(error.__traceback__)[-1:]}"
        first = kind not in one.logged and not isinstance(error, LedgerUnavailable)  # that the writer has explained
        one.logged.add(kind)
        told = {"part": name, "error": one.error, "exc_info": error if first else None}
        if restarts:
            log.error("a part failed and starts again", pause_s=one.pause_s, **told)
        else:
            log.error("a part failed, its next turn comes as planned", **told)

    async def _pause(self, name: str) -> None:
        await asyncio.sleep(self._of(name).pause_s)

    @contextlib.asynccontextmanager
    async def _well_after_a_while(self, name: str) -> AsyncIterator[None]:
        timer = asyncio.get_running_loop().call_later(self._well_after_s, self.well, name)
        try:
            yield
        finally:
            timer.cancel()

    def _of(self, name: str) -> _Watched:
        return self._watched.setdefault(name, _Watched())


def writable(text: str) -> str:
    """As much of an error's text as is kept, as text that can be written anywhere."""
    return text[:ERROR_LENGTH].encode("utf-8", "replace").decode()


def next_pause(last: float, *, first: float, longest: float) -> float:
    """How long to wait after another failure: twice as long as after the one before."""
    return min(last * 2 or first, longest)


def words(error: BaseException) -> str:
    """An error in words, also where its own code fails to give any."""
    try:
        said = str(error)
    except Exception:
        said = ""
    return writable(f"{type(error).__name__}: {said}" if said else type(error).__name__)
