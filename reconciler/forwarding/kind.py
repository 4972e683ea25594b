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
from reconciler.forwarding.message import TAKEN, Answer, Message, Refused, excerpt

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
        """Whether it can be reached, for the `check` command: what was found. Sends nothing; raises what is wrong."""
        return self.address


class Connected(Kind, Generic[C]):
    """A kind with a connection that is made at the first message, and anew after any trouble."""

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
        self._connection: C | None = None
        self._connecting = asyncio.Lock()

    @abstractmethod
    async def connect(self) -> C:
        """Connect."""

    @abstractmethod
    async def publish(self, connection: C, message: Message) -> None:
        """Publish one message, and wait until the broker has confirmed it."""

    @abstractmethod
    async def disconnect(self, connection: C) -> None:
        """Close a connection, broken or not."""

    async def send(self, message: Message) -> Answer:
        async with self._connecting:
            if self._connection is None:
                self._connection = await self.connect()
            connection = self._connection
        try:
            await self.publish(connection, message)
        except Refused:
            raise
        except BaseException:  # cancelled for taking too long, too: such a connection is not to be trusted
            await self._drop(connection)
            raise
        return TAKEN

    async def check(self) -> str:
        await self.disconnect(await self.connect())
        return f"{self.address}: connected"

    async def close(self) -> None:
        if self._connection is not None:
            await self._drop(self._connection)

    async def _drop(self, connection: C) -> None:
        if self._connection is not connection:  # another message's trouble has done it already
            return
        self._connection = None
        try:
            await asyncio.wait_for(asyncio.shield(self.disconnect(connection)), 2)
        except Exception as error:  # it was broken: nothing more can be done for it
            log.debug("a broken connection did not close well", error=repr(error))


async def attempt(kind: Kind, message: Message, *, timeout_s: float) -> Answer:
    """One attempt, whose every outcome is an answer. Never raises for anything that the other side does."""
    try:
        async with asyncio.timeout(timeout_s):
            return await kind.send(message)
    except TimeoutError:
        return Answer("timeout", f"no answer within {timeout_s:g} s")
    except Refused as error:
        return Answer("refused", excerpt(str(error)), refused=True)
    except Exception as error:  # whatever it is, the event stays and is tried again
        words = str(error) or type(error).__name__
        return Answer(_error_class(error), excerpt(f"{type(error).__name__}: {words}"))


def _error_class(error: Exception) -> str:
    """A word for a metric's label, from the error's class: ConnectionRefusedError makes `connection`."""
    if isinstance(error, OSError):
        return "connection"
    return "".join("_" + c.lower() if c.isupper() else c for c in type(error).__name__).strip("_")[:64]
