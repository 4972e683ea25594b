"""A connection that accepts any text.

Errors, answers and names come from outside, and may contain what UTF-8 can't encode (a lone surrogate). One such text
must not make a transaction fail, and with it everything else in it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from operator import length_hint
from typing import Any


def writable(text: str) -> str:
    """A text as a database can store it: what UTF-8 can't encode is replaced."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


class AnyText(sqlite3.Connection):
    """Looks at values only if SQLite can't store them, so there is no cost otherwise."""

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        """As sqlite3's."""
        try:
            return super().execute(sql, parameters)
        except UnicodeEncodeError:
            return super().execute(sql, _writable(parameters))

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> sqlite3.Cursor:
        """As sqlite3's."""
        rows = list(parameters)
        left = iter(rows)
        while True:
            try:
                return super().executemany(sql, left)
            except UnicodeEncodeError:  # those before are written
                failed = len(rows) - length_hint(left) - 1
                super().execute(sql, _writable(rows[failed]))


def _writable(parameters: Any) -> Any:
    if isinstance(parameters, dict):
        return {name: _value(value) for name, value in parameters.items()}
    return tuple(_value(value) for value in parameters)


def _value(value: Any) -> Any:
    return writable(value) if isinstance(value, str) else value
