"""The seam for kinds of destination: what each has to be, and what all have in common.

A kind is one small class in a file of its own, registered under the entry point group
`gitlab_reconciler.destinations`: ours in this project's pyproject.toml, others' in theirs
(docs/destinations/your-own.md).
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from importlib import import_module
from typing import Any, ClassVar, Generic, TypeVar

import structlog

from reconciler.config.destinations import Destination
from reconciler.forwarding.message import TAKEN, Answer, Message, NotTaken, Refused, excerpt, failure
from reconciler.forwarding.reach import Unreachable, reach

log = structlog.get_logger(__name__)

C = TypeVar("C")


class Kind(ABC):
    """One configured destination's way out. Made once, closed once; `send` runs many times at once."""

    config: ClassVar[type[Destination]]
    """The keys that a destination of this kind takes: `Destination`'s and its own."""

    @classmethod  # noqa: B027 - most have nothing to say
    def available(cls) -> None:
        """Asked when a config names the kind. Raises ValueError where something has to be installed first."""

    @abstractmethod
    def __init__(self, destination: Any) -> None:
        """`destination` is an instance of `config`. Connects to nothing yet."""

    @abstractmethod
    async def send(self, message: Message) -> Answer:
        """Hand one message over; return only when it is safely there.

        Raise `Refused` where it never will be taken, anything else to have it tried again. What takes longer
        than the destination's `timeout` is cancelled from outside.
        """

    async def close(self) -> None:  # noqa: B027 - some have nothing to close
        """Give up connections."""

    @property
    @abstractmethod
    def address(self) -> str:
        """Where messages go, for people; without secrets."""

    async def check(self) -> str:
        """Whether it can be reached, for the `check` command: what was found.

        No message is sent. Raises what is wrong; who calls it sets a limit of time.
        """
        return self.address


class Connected(Kind, Generic[C]):
    """A kind with a connection that all messages share, made at the first, and anew after trouble of its own."""

    requires: ClassVar[tuple[str, str]]
    """The module of the client library, and our extra that installs it."""

    @classmethod
    def available(cls) -> None:
        module, extra = cls.requires
        try:
            import_module(module)
        except ImportError:
            raise ValueError(f"needs a library: pip install 'gitlab-reconciler[{extra}]'") from None

    def __init__(self, destination: Any) -> None:
        self._line: _Line[C] | None = None
        self._connecting = asyncio.Lock()

    @abstractmethod
    async def connect(self) -> C:
        """Connect."""

    @abstractmethod
    async def publish(self, connection: C, message: Message) -> None:
        """Publish one message, and wait until the broker has confirmed it.

        Raise `NotTaken` or `Refused` for what is the message's own trouble. After anything else the connection is
        not used for new messages; those that are under way over it are left alone.
        """

    @abstractmethod
    async def disconnect(self, connection: C) -> None:
        """Close a connection, broken or not."""

    async def send(self, message: Message) -> Answer:
        line = await self._connected()
        confirmed = line.confirmed
        try:
            await self.publish(line.connection, message)
        except (Refused, NotTaken):
            line.confirmed += 1
            raise
        except (TimeoutError, asyncio.CancelledError):
            if line.confirmed == confirmed:  # nothing came back meanwhile: it may be dead
                self._give_up(line)
            raise
        except BaseException:
            self._give_up(line)
            raise
        else:
            line.confirmed += 1
            return TAKEN
        finally:
            line.users -= 1
            if line.given_up and not line.users:
                await self._close(line.connection)

    @property
    def endpoints(self) -> list[tuple[str, int]]:
        """The hosts and ports of which one at least has to let us connect; none where that is not known."""
        return []

    async def check(self) -> str:
        """Connect as for messages: the client logs in, where it has to. First of all whether anybody is there."""
        await self._anybody_there()
        await self.disconnect(await self.connect())
        return f"{self.address}: connected"

    async def _anybody_there(self) -> None:
        """Raises Unreachable where no endpoint lets us connect: libraries say so late, or in words of their own."""
        found = await asyncio.gather(*(reach(*one) for one in self.endpoints), return_exceptions=True)
        silent = [one for one in found if isinstance(one, BaseException)]
        if silent and len(silent) == len(found):
            raise Unreachable("; ".join(map(str, silent)))

    async def close(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            await self._close(line.connection)

    async def _connected(self) -> _Line[C]:
        async with self._connecting:
            if self._line is None:
                self._line = _Line(await self.connect())
            self._line.users += 1
            return self._line

    def _give_up(self, line: _Line[C]) -> None:
        line.given_up = True
        if self._line is line:
            self._line = None

    async def _close(self, connection: C) -> None:
        try:
            await asyncio.wait_for(asyncio.shield(self.disconnect(connection)), 2)
        except Exception as error:  # it was broken: nothing more can be done for it
            log.debug("a broken connection did not close well", error=repr(error))


class _Line(Generic[C]):
    """A connection, how many messages are under way over it, and how many the other side has answered for."""

    def __init__(self, connection: C) -> None:
        self.connection = connection
        self.users = 0
        self.confirmed = 0
        self.given_up = False


async def attempt(kind: Kind, message: Message, *, timeout_s: float) -> Answer:
    """One attempt, whose every outcome is an answer. Never raises for anything that the other side does."""
    try:
        async with asyncio.timeout(timeout_s):
            answer = await kind.send(message)
        if not isinstance(answer, Answer):  # another package's kind
            raise TypeError(f"{type(kind).__name__}.send returned {answer!r}: no Answer")
        return answer
    except TimeoutError:
        return Answer("timeout", f"no answer within {timeout_s:g} s")
    except Refused as error:
        return Answer("refused", excerpt(str(error)), refused=True)
    except (Exception, SystemExit) as error:  # whatever it is, the event stays and is tried again
        return Answer(_error_class(error), failure(error))


def _error_class(error: BaseException) -> str:
    """A word for a metric's label, from the error's class: ConnectionRefusedError makes `connection`."""
    if isinstance(error, OSError):
        return "connection"
    return "".join("_" + c.lower() if c.isupper() else c for c in type(error).__name__).strip("_")[:64]
