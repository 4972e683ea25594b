"""What the ledger's operations need of a connection, whichever database has the ledger.

SQL is written once, for SQLite and for PostgreSQL, where both understand it. Parameters are `?`, or `:name`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol

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

    statement_errors: ClassVar[tuple[type[Exception], ...]]
    """What is raised about a statement that fails."""

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
    def version(self) -> int:
        """A number that changes when another connection has committed."""

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
    def close(self) -> None: ...
