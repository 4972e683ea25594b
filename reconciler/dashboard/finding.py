"""The data of the list of events: filters from the URL, chips to remove them, and what no event has."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any
from urllib.parse import urlencode

import msgspec

from reconciler.config.models import Config
from reconciler.events import fields, moments, times
from reconciler.events.kinds import known_kinds
from reconciler.ledger.queue import known
from reconciler.ledger.queue.destinations import destination_states
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.ids import of_other_ledgers, read_event_id
from reconciler.ledger.views import browse, search
from reconciler.ledger.views.browse import Filter, Place
from reconciler.ledger.views.listing import Listed, listed
from reconciler.ledger.views.words import FIELDS, terms, unknown_fields

ROWS_A_PAGE = 50
STATES = ("pending", "retrying", "delivered", "dead")
NAMES = {"delivery": "Delivery", "destination": "Destination", "source": "Source", "kind": "Kind",
         "project": "Project", "author": "Author", "from": "From", "to": "To"}  # fmt: skip
"""The filters, in the order in which they are shown."""
_SOURCES = ("system_hook", "hook_log", "project_events", "pipelines", "issues", "merge_requests", "releases")
_LONGEST = 500
_WORDS_NAMED = 8


class Chip(msgspec.Struct, frozen=True):
    """A filter that applies, and the URL of the list without it."""

    name: str
    value: str
    without: str


class Asked(msgspec.Struct, frozen=True):
    """What the URL asks for. Empty parameters, which a form sends, are left out."""

    words: str
    filters: dict[str, str]
    before: str
    at: str

    def url(self, **changes: str | int | None) -> str:
        """The URL of the list, its first page."""
        every = {"q": self.words or None, **self.filters} | changes
        given = {name: value for name, value in every.items() if value is not None}
        return "/events" + (f"?{urlencode(given, errors='replace')}" if given else "")


def asked(query: Mapping[str, str]) -> Asked:
    """What a query asks for."""
    given = {name: value for name in NAMES if (value := query.get(name, "").strip()[:_LONGEST])}
    return Asked(query.get("q", "").strip()[:_LONGEST], given, query.get("before", ""), query.get("at", ""))


def named_event(db: Database, what: Asked) -> int | None:
    """The event whose ID is all that was typed; None if it is something else, or there is no such event."""
    found = None if what.filters else read_event_id(what.words)
    if found is None or of_other_ledgers(db, [found]) or not browse.exists(db, found.number):
        return None
    return found.number


def page(db: Database, config: Config, what: Asked) -> dict[str, Any]:
    """A page of the list."""
    wrong, wanted = _filter(what)
    found = Listed([])
    if wanted is not None:
        found = listed(db, wanted, what.words, limit=ROWS_A_PAGE, before=_place(what, wanted))
    older = None
    if found.next is not None:
        older = what.url(before=found.next.event_id, at=found.next.happened_at)
    names = [one.name for one in destination_states(db)]
    return {
        "words": what.words,
        "asked": what,
        "chips": [Chip(NAMES[name], value, what.url(**{name: None})) for name, value in what.filters.items()],
        "wrong": wrong,
        "notes": _notes(db, what, names, is_empty=not found.events and not found.is_partial),
        "events": found.events,
        "states": browse.delivery_states(db, [row["id"] for row in found.events]),
        "older": older,
        "is_partial": found.is_partial,
        "choices": {
            "delivery": STATES,
            "destination": names,
            "kind": sorted(known_kinds()),
            "source": [
                "webhook",
                "system_hook",
                "hook_log",
                *(f"webhook:{one.name}" for one in config.receiver.hooks),
            ],
        },
    }


def _filter(what: Asked) -> tuple[str | None, Filter | None]:
    """The filter, or what is wrong with it."""
    given = what.filters
    state = given.get("delivery")
    if state is not None and state not in STATES:
        return f"There is no delivery state {state!r}: there are {', '.join(STATES)}.", None
    try:
        since, until = moments.time_range(given.get("from"), given.get("to"))
    except ValueError as error:
        return f"From and to: {error}.", None
    project = given.get("project")
    return None, Filter(
        project=fields.number(project) or project,
        kind=given.get("kind"),
        author=given.get("author"),
        source=given.get("source"),
        destination=given.get("destination"),
        delivery=state,
        since=since,
        until=until,
    )


def _place(what: Asked, wanted: Filter) -> Place | None:
    number = fields.number(what.before)
    if number is None:
        return None
    if not wanted.has_times:
        return Place(number)
    return None if times.written(what.at) is None else Place(number, what.at)


def _notes(db: Database, what: Asked, names: list[str], *, is_empty: bool) -> list[str]:
    """What of a search or a filter is not known, and what there is instead."""
    notes = [
        f"“{name}:” is not a field, so it was searched as a word. Fields are {', '.join(FIELDS)}."
        for name in unknown_fields(what.words)[:_WORDS_NAMED]
    ]
    if not is_empty:
        return notes
    destination, kind, project = (what.filters.get(name) for name in ("destination", "kind", "project"))
    if destination is not None and destination not in names:
        notes.append(f"There is no destination {destination!r}: there are {', '.join(names) or 'none'}.")
    if kind is not None and not known.has_kind(db, kind):
        notes.append(f"No event is of kind {kind!r}{_near(kind)}.")
    if project is not None and not known.has_project(db, fields.number(project) or project):
        notes.append(f"No project {project!r} is known.")
    for term in terms(what.words)[:_WORDS_NAMED]:
        if not search.is_found(db, term):
            where = f" as {term.column}" if term.column else ""
            notes.append(f"No event has “{term.text}”{where}{_near(term.text) if term.column == 'kind' else ''}.")
    return notes


def _near(kind: str) -> str:
    near = get_close_matches(kind, sorted(known_kinds()), n=1)
    return f"; did you mean {near[0]}?" if near and near[0] != kind else ""
