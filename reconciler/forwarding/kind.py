"""The interface of a kind of destination, and what all kinds have in common.

A kind is one small class in a file of its own, registered under the entry point group
`gitlab_reconciler.destinations`: ours in this project's pyproject.toml, others' in theirs
(docs/destinations/your-own.md).
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Hashable, Sequence
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any, ClassVar, Generic, TypeVar

import structlog

from reconciler.config.destinations import Destination
from reconciler.forwarding.message import (
    ACCEPTED,
    NOT_SENT,
    UNANSWERED,
    Answer,
    DeliveryRejected,
    Message,
    NotAccepted,
    excerpt,
    failure,
)
from reconciler.forwarding.reach import Unreachable, reach
from reconciler.forwarding.rounds import gathered, is_cancelled

CLOSE_S = 10.0
"""How long closing may take. A reload waits for it, or another copy that is to have the destination."""

log = structlog.get_logger(__name__)

C = TypeVar("C")


class Kind(ABC):
    """Sends to one configured destination. Created once, closed once; `send` is called concurrently."""

    config: ClassVar[type[Destination]]
    """The config keys of this kind: those of `Destination` and its own. One that extends `BatchedDestination` also
    takes `batch`, and its kind should have a `send_batch` of its own.
    """

    batch_fails_whole: ClassVar[bool] = True
    """Whether one bad message makes the destination refuse the whole batch, so that halving finds it."""

    @classmethod  # noqa: B027 - most kinds need no library
    def available(cls) -> None:
        """Called when a config names this kind. Raises ValueError if a library must be installed first."""

    @abstractmethod
    def __init__(self, destination: Any) -> None:
        """`destination` is an instance of `config`. Must not connect yet."""

    @abstractmethod
    async def send(self, message: Message) -> Answer:
        """Send one message. Return only when the destination has safely accepted it.

        Raise `DeliveryRejected` if the destination will never accept it, any other exception to have it retried.
        A call that takes longer than the destination's `timeout` is cancelled.
        """

    async def send_batch(self, messages: Sequence[Message]) -> Sequence[Answer]:
        """Send several messages at once. Returns one Answer for each, in their order.

        There are several of one lane only if they have the same `target`. None may be accepted after an earlier one
        of its lane was not, unless that one was rejected: its answer is then NOT_SENT. Exceptions and the timeout
        are those of `send`, and concern all messages.
        """
        return await gathered((_answer_of(self, one) for one in messages), UNANSWERED)

    def target(self, message: Message) -> Hashable | None:
        """What the destination applies messages to in their order, and none after one that it did not accept, if
        they are in one `send_batch`; None if there is no such thing. The next messages of a lane that have
        different targets, or None, are sent one after the other.
        """
        return None

    async def close(self) -> None:  # noqa: B027 - some kinds have nothing to close
        """Close all connections."""

    @property
    @abstractmethod
    def address(self) -> str:
        """Where messages go, as text for people, without secrets."""

    async def check(self) -> str:
        """Check that the destination can be reached, for the `check` command. Returns what was found, as text.

        Sends no message. Raises an error that says what is wrong; the caller limits the time.
        """
        return self.address


async def close(kind: Kind, destination: str) -> None:
    """Close the connections of a kind that is used no more. Raises nothing, whatever the kind does."""
    try:
        async with asyncio.timeout(CLOSE_S):
            await kind.close()
    except (Exception, SystemExit) as error:  # it is discarded anyway
        log.warning("connections did not close cleanly", destination=destination, error=repr(error))


class Connected(Kind, Generic[C]):
    """A kind with one connection for all messages. It is opened for the first message, and again after an error."""

    requires: ClassVar[tuple[str, str]]
    """The client library's module, and the extra of this package that installs it."""

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
        """Open a connection."""

    @abstractmethod
    async def publish(self, connection: C, message: Message) -> None:
        """Publish one message, and wait until the broker has confirmed it.

        Raise `NotAccepted` or `DeliveryRejected` if the message is the cause. After any other exception the
        connection is not used for new messages; messages in flight on it may still finish.
        """

    @abstractmethod
    async def disconnect(self, connection: C) -> None:
        """Close a connection, which may be broken."""

    async def publish_batch(self, connection: C, messages: Sequence[Message]) -> Sequence[Answer]:
        """Publish several messages, and wait until the broker has confirmed them. Returns one Answer for each.

        The messages are those of a `send_batch`. Exceptions are those of `publish`, and concern all messages.
        """

        async def publish(message: Message) -> Answer:
            try:
                await self.publish(connection, message)
            except (DeliveryRejected, NotAccepted) as error:
                return answer_to(error)
            return ACCEPTED

        return await gathered((publish(one) for one in messages), UNANSWERED)

    async def send(self, message: Message) -> Answer:
        async with self._connection() as connection:
            await self.publish(connection, message)
        return ACCEPTED

    async def send_batch(self, messages: Sequence[Message]) -> Sequence[Answer]:
        async with self._connection() as connection:
            return await self.publish_batch(connection, messages)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[C]:
        """The connection. After an error that may be its fault, it is not used for new messages."""
        line = await self._connected()
        confirmed = line.confirmed
        try:
            yield line.connection
        except (DeliveryRejected, NotAccepted):
            line.confirmed += 1
            raise
        except (TimeoutError, asyncio.CancelledError):
            if line.confirmed == confirmed:  # no answer arrived meanwhile: the connection may be dead
                self._give_up(line)
            raise
        except BaseException:
            self._give_up(line)
            raise
        else:
            line.confirmed += 1
        finally:
            line.users -= 1
            if line.given_up and not line.users:
                await self._close(line.connection)

    @property
    def endpoints(self) -> list[tuple[str, int]]:
        """Hosts and ports, at least one of which must accept connections; empty if that is not known."""
        return []

    async def check(self) -> str:
        """Connect as for messages, with the login. First check that something listens there."""
        await self._check_listening()
        await self.disconnect(await self.connect())
        return f"{self.address}: connected"

    async def _check_listening(self) -> None:
        """Raises Unreachable if no endpoint accepts connections: client libraries report that late."""
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
        except Exception as error:  # it was broken anyway
            log.debug("broken connection did not close cleanly", error=repr(error))


class _Line(Generic[C]):
    """A connection, how many messages are in flight on it, and how many have been answered."""

    def __init__(self, connection: C) -> None:
        self.connection = connection
        self.users = 0
        self.confirmed = 0
        self.given_up = False


async def attempt(kind: Kind, message: Message, *, timeout_s: float) -> Answer:
    """Make one attempt. Every result is an Answer: never raises, whatever the destination does."""
    try:
        async with asyncio.timeout(timeout_s):
            return _checked(kind, await kind.send(message))
    except TimeoutError:
        return Answer("timeout", f"no answer within {timeout_s:g} s")
    except (Exception, SystemExit) as error:  # whatever it is, the event stays and is retried
        return answer_to(error)


async def attempt_batch(kind: Kind, messages: Sequence[Message], *, timeout_s: float) -> list[Answer]:
    """Send messages at once. Returns one Answer for each: never raises, whatever the destination does.

    If the task is cancelled, that is raised, unless the kind has answers already.
    """
    late = Answer("timeout", f"no answer within {timeout_s:g} s")
    try:
        async with asyncio.timeout(timeout_s) as limit:
            answers = [_checked(kind, one) for one in await kind.send_batch(messages)]
        if len(answers) != len(messages):
            what = f"{len(answers)} answers to {len(messages)} messages"
            raise TypeError(f"{type(kind).__name__}.send_batch returned {what}")
        if answers[0] is NOT_SENT:
            raise TypeError(f"{type(kind).__name__}.send_batch did not send the first message")
        if is_cancelled() and not limit.expired():
            late = NOT_SENT  # as if it had not been attempted: it is sent again after the next start
        return [late if one is UNANSWERED else one for one in answers]
    except TimeoutError:
        same = late
    except (Exception, SystemExit) as error:
        same = answer_to(error)
    return [same] * len(messages)


def _checked(kind: Kind, answer: Answer) -> Answer:
    if not isinstance(answer, Answer):  # a kind of another package
        raise TypeError(f"{type(kind).__name__} returned {answer!r}, which is not an Answer")
    return answer


async def _answer_of(kind: Kind, message: Message) -> Answer:
    """Send one message. Its own failure is an Answer; only a cancellation is raised."""
    try:
        return _checked(kind, await kind.send(message))
    except (Exception, SystemExit) as error:
        return answer_to(error)


def answer_to(error: BaseException) -> Answer:
    """An exception as an Answer."""
    if isinstance(error, DeliveryRejected):
        return Answer("rejected", excerpt(str(error)), rejected=True)
    return Answer(_error_class(error), failure(error))


def _error_class(error: BaseException) -> str:
    """A label for metrics from the error's class: ConnectionRefusedError becomes `connection`."""
    if isinstance(error, OSError):
        return "connection"
    return "".join("_" + c.lower() if c.isupper() else c for c in type(error).__name__).strip("_")[:64]
