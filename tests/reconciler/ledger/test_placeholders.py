"""A statement means the same for PostgreSQL as it is written, or is refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reconciler.ledger.storage.connection import connect
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.placeholders import for_psycopg
from tests.support.ledgers import ledger_location

INSIDE = st.text("ab:?%'\"$/*-1 \n", max_size=8)
"""What may look like a parameter, or like the end of something."""


def text(inside: str) -> tuple[str, list[Any]]:
    return "'" + inside.replace("'", "''") + "'::text", [inside]


def name(inside: str) -> tuple[str, list[Any]]:
    return '1::int AS "x' + inside.replace('"', '""') + '"', [1]


def dollars(inside: str) -> tuple[str, list[Any]]:
    inside = inside.replace("$", "")
    return f"$a1${inside}$a1$", [inside]


def comment(inside: str) -> tuple[str, list[Any]]:
    inside = inside.replace("*", "").replace("/", "")
    return f"/*{inside}*/ 7 % 4 --{inside.replace(chr(10), '')}\n", [3]


WRITTEN = st.one_of([st.builds(make, INSIDE) for make in (text, name, dollars, comment)])
VALUES = st.one_of(st.integers(-9, 9), st.text("ab:?%'$\\", max_size=5))


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    folder: Path = tmp_path_factory.mktemp("placeholders")
    with ledger_location("postgresql", folder) as location, closing(connect(location)) as opened:
        yield opened


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(WRITTEN | VALUES, min_size=1, max_size=6), st.sampled_from(["?", "?{}", ":p{}", ":Name_{}"]))
def test_the_server_reads_it_as_it_is_written(db: Database, parts: list[Any], style: str) -> None:
    columns, expected, values = [], [], []
    for part in parts:
        if isinstance(part, tuple):
            columns.append(part[0])
            expected += part[1]
        else:
            values.append(part)
            kind = "int" if isinstance(part, int) else "text"
            columns.append(f"{style.format(len(values))}::{kind}")
            expected.append(part)
    named = {style[1:].format(n): value for n, value in enumerate(values, 1)}
    sql = "SELECT " + "\n, ".join(columns)
    assert list(db.execute(sql, named if style[0] == ":" else values).fetchone()) == expected


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT a[1:n], ?",
        "SELECT a[:n], :n",
        "SELECT a[n:] FROM t WHERE x = ?",
        r"SELECT E'it\'s ?', ?",
        "SELECT U&'x', ?",
        "SELECT /* a /* b */ ? */ ?",
        "SELECT a ?| b, ?",
        "SELECT a @? b, ?",
        "SELECT 'open, ?",
        'SELECT "open, ?',
        "SELECT $$open, ?",
        "SELECT /* open, ?",
        "SELECT ?, :name",
        "SELECT ?, ?1",
        "SELECT : name, ?",
    ],
)
def test_what_could_be_meant_in_two_ways_is_refused(sql: str) -> None:
    with pytest.raises(ValueError, match=r"can't be translated|of several kinds"):
        for_psycopg(sql, [1])
