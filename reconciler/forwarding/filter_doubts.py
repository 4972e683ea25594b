"""Finds filters that match nothing known so far, and filters that use the old path of a project."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from reconciler.config import filter_values
from reconciler.config.models import Config
from reconciler.forwarding.filters import path_matches
from reconciler.ledger.queue import known
from reconciler.ledger.queue.known import Renamed
from reconciler.ledger.storage.database import Database

_WILD = "*?["
_YET = " yet: is it misspelled?"


def doubts(config: Config, db: Database) -> list[tuple[str, str]]:
    """Pairs of a destination's name and a text about a part of its filter that matches nothing known."""
    projects, renamed = known.projects(db), known.renamed(db)
    found = []
    for destination in config.destinations:
        wanted = destination.filter
        strange = {
            "kinds": filter_values.unknown_kinds(wanted.kinds or ()) if destination.type == "events" else [],
            "actions": filter_values.unknown_actions(wanted.actions or ()) if destination.type == "events" else [],
        }
        for key, unknown in strange.items():
            for word in sorted(set(unknown) - known.heard(db, unknown)):
                found.append(
                    (
                        destination.name,
                        f"filter.{key}: {word!r} is not known from GitLab{_YET}",
                    )
                )
        for one in wanted.projects or ():
            moved = [] if isinstance(one, int) else _moved(one, renamed)
            found += [(destination.name, text) for text in moved]
            if not moved and not _may_match(one, config, projects):
                what = "has the id" if isinstance(one, int) else "matches"
                text = f"filter.projects: no configured or seen project {what} {one}{_YET}"
                found.append((destination.name, text))
    return found


def _moved(pattern: str, renamed: Sequence[Renamed]) -> list[str]:
    """Texts about former paths of projects that a pattern matches."""
    return [
        f"filter.projects: {one.path} is {one.now} now: it still matches {pattern} by the project's id "
        f"({one.project_id}); use the new path or the id"
        for one in renamed
        if path_matches(one.path, pattern) and not path_matches(one.now or "", pattern)
    ]


def _may_match(one: int | str, config: Config, projects: Sequence[tuple[int, str | None]]) -> bool:
    """Whether a filter's project may be one that the config names or that the ledger has seen."""
    ids = {ident for ident, _ in projects}
    paths = {path for _, path in projects if path is not None}
    configured = [entry.project for entry in config.projects]
    # One that is configured by its path may have this id, and vice versa, until it is first read.
    if isinstance(one, int):
        unread = any(isinstance(name, str) and name not in paths for name in configured)
        return one in ids or one in configured or unread or bool(config.groups)
    named = paths | {name for name in configured if isinstance(name, str)}
    unread = any(isinstance(name, int) and name not in ids for name in configured)
    return unread or _matches(one, named) or any(_may_be_below(group, one) for group in config.groups)


def _matches(pattern: str, paths: Iterable[str]) -> bool:
    return any(path_matches(path, pattern) for path in paths)


def _may_be_below(group: int | str, pattern: str) -> bool:
    """Whether a project below a group can have such a path; unknown (True) for a group given by its id."""
    if isinstance(group, int):
        return True
    fixed = min((pattern.index(mark) for mark in _WILD if mark in pattern), default=len(pattern))
    below, pattern = f"{group}/".lower(), pattern.lower()
    return pattern.startswith(below) or below.startswith(pattern[:fixed])
