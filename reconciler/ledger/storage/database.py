"""What the ledger's operations need of a connection, whichever database has the ledger.

SQL is written once, for SQLite and for PostgreSQL, where both understand it. Parameters are `?`, or `:name`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

Parameters = Sequence[Any] | Mapping[str, Any]


class Rows(Protocol):
    """The rows that a statement returns, or how many it has changed."""

    @property
    def rowcount(self) -> int: ...

    def fetchone(self) -> Any: ...

    def fetchall(self) -> list[Any]: ...

    def __iter__(self) -> Iterator[Any]: ...


class Database(ABC):
    """A connection to a ledger. A statement belongs to the transaction that is open, or is one of its own."""

    Error: type[Exception]
    """What a statement raises that is wrong, or that a value does not fit."""

    is_shared = False
    """Whether other copies of the service may write too, and deliver to some of the destinations."""

    on_lost: Callable[[], None] | None = None
    """Called as soon as it is noticed that the connection has ended, and with it whatever it held."""

    @abstractmethod
    def begin(self) -> None:
        """Begin a write transaction. One writes at a time: it waits for the others."""

    @abstractmethod
    def commit(self) -> None:
        """Put the transaction on disk. Raises LedgerUnavailable if that can't be verified."""

    @abstractmethod
    def rollback(self) -> None:
        """Undo the transaction."""

    @abstractmethod
    def set_patience(self, seconds: float) -> None:
        """How long `begin` waits for others. With 0 it fails at once, with an error that `is_busy`."""

    @abstractmethod
    def give_up_after(self, seconds: float | None) -> None:
        """End a statement that is not answered within so long; None: never. A server's connection is closed then."""

    @abstractmethod
    def version(self) -> int:
        """A number that changes when another connection has committed."""

    @property
    def is_held(self) -> bool:
        """Whether no other process can have what this connection holds. Not if it has heard nothing for seconds."""
        return True

    @abstractmethod
    def tell_opened(self, destinations: Collection[int]) -> None:
        """Tell the other copies, with the commit, that deliveries were opened for these destinations."""

    @property
    @abstractmethod
    def in_transaction(self) -> bool: ...

    @abstractmethod
    def execute(self, sql: str, parameters: Parameters = (), /) -> Rows:
        """Run a statement."""

    @abstractmethod
    def executemany(self, sql: str, rows: Iterable[Parameters], /) -> Rows:
        """Run a statement once for each of these parameters."""

    @abstractmethod
    def query_each(self, sql: str, rows: Iterable[Parameters], /) -> Iterator[list[Any]]:
        """The rows of a query for each of these parameters. However many there are, it is a single round trip."""

    @abstractmethod
    def query(self, sql: str, parameters: Parameters = (), /) -> Iterator[dict[str, Any]]:
        """The rows as dictionaries, by column."""

    @abstractmethod
    def size_bytes(self) -> int:
        """How large the ledger is."""

    def trouble(self) -> str | None:
        """Why what is open is not the ledger that is at its place, if so."""
        return None

    @abstractmethod
    def close(self) -> None: ...
