"""Webhooks that could not be recorded."""

from __future__ import annotations

from typing import Any

from reconciler.ledger.storage.migrations import migrations, run


@migrations(name="0012_unrecorded")
def _unrecorded(db: Any) -> None:
    run(
        db,
        """
        CREATE TABLE unrecorded (
            id INTEGER PRIMARY KEY,
            received_at TEXT NOT NULL,
            hook TEXT NOT NULL,
            headers TEXT NOT NULL,  -- JSON
            body BLOB NOT NULL,  -- the bytes as they came
            error TEXT NOT NULL,
            tried_at TEXT NOT NULL,
            tries INTEGER NOT NULL,
            due INTEGER NOT NULL DEFAULT 0  -- 1: the service tries again
        )
        """,
        "CREATE INDEX unrecorded_due ON unrecorded (id) WHERE due = 1",
    )
