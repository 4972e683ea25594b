"""How PostgreSQL carries out what it is asked, triggers included."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from psycopg.errors import Diagnostic

from reconciler.ledger.storage.postgresql import PostgresDatabase

_REPORT = """
    LOAD 'auto_explain';
    SET auto_explain.log_min_duration = 0; SET auto_explain.log_level = 'notice';
    SET auto_explain.log_format = 'json'; SET auto_explain.log_nested_statements = on;
    SET client_min_messages = 'notice';
"""


class Plans(msgspec.Struct):
    """The steps of all statements that were carried out."""

    steps: list[dict[str, Any]] = []

    def indexes(self) -> set[str]:
        """The indexes that were looked into."""
        return {step["Index Name"] for step in self.steps if "Index Name" in step}

    def conditions(self, index: str) -> list[str]:
        """What was looked for in an index."""
        return [step.get("Index Cond", "") for step in self.steps if step.get("Index Name") == index]

    def scanned(self) -> set[str]:
        """The tables that were read from end to end."""
        return {step["Relation Name"] for step in self.steps if step["Node Type"] == "Seq Scan"}

    def sorted(self) -> int:
        """How often rows were sorted."""
        return sum("Sort" in step["Node Type"] for step in self.steps)

    def add(self, step: dict[str, Any]) -> None:
        self.steps.append(step)
        for below in step.get("Plans", ()):
            self.add(below)


@contextmanager
def plans_of(db: PostgresDatabase) -> Iterator[Plans]:
    """The plans of what is asked through a connection."""
    found = Plans()

    def take(notice: Diagnostic) -> None:
        _, is_plan, plan = (notice.message_primary or "").partition("plan:\n")
        if is_plan:
            found.add(json.loads(plan)["Plan"])

    db.conn.execute(_REPORT)
    db.conn.add_notice_handler(take)
    yield found
    db.conn.remove_notice_handler(take)
    db.conn.execute("SET auto_explain.log_min_duration = -1")
