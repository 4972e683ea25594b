"""Words of a filter that are not in the ledger, most often misspelt: reported if nothing matches."""

from __future__ import annotations

from collections.abc import Iterator

from reconciler.cli.common import err, out
from reconciler.config.filter_values import likely_kind
from reconciler.config.messages import meant
from reconciler.ledger.queue import destinations, known
from reconciler.ledger.storage.database import Database
from reconciler.ledger.views.browse import Filter


def filter_hints(db: Database, wanted: Filter, *, destination: str | None = None) -> list[str]:
    """A note for each word of a filter that does not occur in the ledger."""
    return [*_projects(db, wanted.project), *_kinds(db, wanted.kind), *_sources(db, wanted.source),
            *_destinations(db, destination)]  # fmt: skip


def print_no_match(words: str, hints: list[str], *, as_json: bool) -> None:
    """Say that nothing matches, and which words are unknown; with --json only the latter, on stderr."""
    if as_json:
        for note in hints:
            err.print(note)
    else:
        out.print(f"{words}: {'; '.join(hints)}" if hints else f"{words}.")


def _projects(db: Database, project: int | str | None) -> Iterator[str]:
    if project is None or known.has_project(db, project):
        return
    paths = [path for _, path in known.projects(db) if path is not None]
    yield _hint("project", str(project), meant(str(project), paths))


def _kinds(db: Database, kind: str | None) -> Iterator[str]:
    if kind is not None and not known.has_kind(db, kind):
        yield _hint("kind", kind, likely_kind(kind))


def _sources(db: Database, source: str | None) -> Iterator[str]:
    if source is not None:
        names = known.sources(db)
        if not any(name == source or name.startswith(f"{source}:") for name in names):
            yield _hint("source", source, meant(source, names))


def _destinations(db: Database, name: str | None) -> Iterator[str]:
    names = [one.name for one in destinations.destination_states(db)]
    if name is not None and name not in names:
        yield _hint("destination", name, meant(name, names))


def _hint(what: str, word: str, near: str | None) -> str:
    return f"no {what} {word!r} in the ledger" + ("" if near is None else f": did you mean {near!r}?")
