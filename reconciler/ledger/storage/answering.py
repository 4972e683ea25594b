"""A connection to PostgreSQL that gives up a server which says nothing.

Nothing else ends such a wait where a proxy is in between: its machine answers, whatever has become of the server.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any, TypeVar

import psycopg

ANSWER_S = 10.0
"""How long a statement may take on a connection that holds nothing."""

T = TypeVar("T")


class AnsweringConnection(psycopg.Connection[Any]):
    """Once the server says nothing for `answer_s`, the connection is closed and the statement fails. With None it
    waits for ever.
    """

    answer_s: float | None = None

    def wait(self, gen: Generator[Any, Any, T], *args: Any, **named: Any) -> T:
        """As psycopg's. It is what everything that waits for the server goes through."""
        if self.answer_s is None:
            return super().wait(gen, *args, **named)
        try:
            return super().wait(_limited(gen, self.answer_s), *args, **named)
        except _SilentError:
            self.close()
            raise


class _SilentError(psycopg.OperationalError):
    pass


def _limited(gen: Generator[Any, Any, T], seconds: float) -> Generator[Any, Any, T]:
    """Ends once nothing has come for so long: psycopg sends 0 now and then while it waits."""
    deadline = time.monotonic() + seconds
    try:
        state = next(gen)
        while True:
            ready = yield state
            if ready:
                deadline = time.monotonic() + seconds
            elif time.monotonic() >= deadline:
                raise _SilentError(f"the server has not answered within {seconds:.0f} s")
            state = gen.send(ready)
    except StopIteration as end:
        done: T = end.value
        return done
