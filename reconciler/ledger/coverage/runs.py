"""What was read: runs, and how each project's last poll ended."""

from __future__ import annotations

import msgspec

from reconciler.events import times
from reconciler.events.times import Millis
from reconciler.ledger.storage.database import Database


class Run(msgspec.Struct, frozen=True):
    """One reading of a window of a source. `known` and `new` count events, `requests` counts requests to GitLab."""

    project_id: int
    source: str
    purpose: str
    window_from: Millis
    window_through: Millis
    started_at: Millis
    finished_at: Millis
    seen: int = 0
    known: int = 0
    new: int = 0
    requests: int = 0
    error: str | None = None


_RUN = """
    INSERT INTO runs (project_id, source, purpose, window_from, window_through, started_at, finished_at, seen, known,
                      new, requests, error)
    VALUES (:project_id, :source, :purpose, :window_from, :window_through, :started_at, :finished_at, :seen, :known,
            :new, :requests, :error)
"""


def note_run(db: Database, run: Run) -> None:
    """Keep a run, except a poll that found nothing new and had no error: there are a million of those a year."""
    if run.purpose == "poll" and not run.new and run.error is None:
        return
    db.execute(
        _RUN,
        {
            "project_id": run.project_id,
            "source": run.source,
            "purpose": run.purpose,
            "window_from": times.iso(run.window_from),
            "window_through": times.iso(run.window_through),
            "started_at": times.iso(run.started_at),
            "finished_at": times.iso(run.finished_at),
            "seen": run.seen,
            "known": run.known,
            "new": run.new,
            "requests": run.requests,
            "error": run.error,
        },
    )


def note_poll(db: Database, project_id: int, error: str | None, at: Millis) -> None:
    """A poll of a project has ended, with an error or without."""
    db.execute(
        """
        INSERT INTO projects (id, last_poll_at, last_poll_error) VALUES (?, ?, ?)
        ON CONFLICT (id) DO UPDATE SET last_poll_at = excluded.last_poll_at,
                                       last_poll_error = excluded.last_poll_error
        """,
        (project_id, times.iso(at), error),
    )


def note_path(db: Database, project_id: int, path: str) -> None:
    """Keep the path of a project."""
    db.execute(
        "INSERT INTO projects (id, path) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET path = excluded.path",
        (project_id, path),
    )


def project_paths(db: Database) -> dict[str, int]:
    """The ids of all projects whose path is known, by path."""
    return dict(db.execute("SELECT path, id FROM projects WHERE path IS NOT NULL").fetchall())


def reported_since(db: Database, moment: Millis) -> set[int]:
    """The projects from which a webhook has reported something since a moment."""
    rows = db.execute("SELECT id FROM projects WHERE last_webhook_at >= ?", (times.iso(moment),))
    return {ident for (ident,) in rows}
