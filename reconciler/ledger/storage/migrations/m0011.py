"""Paths that projects had before they were renamed or moved."""

from __future__ import annotations

from typing import Any

from reconciler.ledger.storage.migrations import migrations, run

_TAKEN = "DELETE FROM former_paths WHERE path = NEW.path"
"""Who has a path now is meant by it: GitLab's redirect from it ends too."""


@migrations(name="0011_renames")
def _renames(db: Any) -> None:
    run(
        db,
        """
        CREATE TABLE former_paths (
            project_id INTEGER NOT NULL,
            path TEXT NOT NULL COLLATE NOCASE,  -- GitLab's paths ignore case
            PRIMARY KEY (project_id, path)
        ) WITHOUT ROWID
        """,
        "CREATE INDEX former_paths_by_path ON former_paths (path)",
        f"""
        CREATE TRIGGER projects_renamed AFTER UPDATE OF path ON projects WHEN NEW.path IS NOT OLD.path BEGIN
            INSERT OR IGNORE INTO former_paths (project_id, path)
            SELECT OLD.id, OLD.path WHERE OLD.path IS NOT NULL AND NEW.path <> OLD.path COLLATE NOCASE;
            {_TAKEN};
        END
        """,
        f"CREATE TRIGGER projects_named AFTER INSERT ON projects WHEN NEW.path IS NOT NULL BEGIN {_TAKEN}; END",
    )
