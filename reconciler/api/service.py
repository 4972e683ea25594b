"""What the API's routes share: the config, the ledger, and how answers are written."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from fastapi import Depends, Request, Response

from reconciler.api.problems import Problem
from reconciler.api.stream import Listeners
from reconciler.config.models import Config
from reconciler.events.fields import as_json
from reconciler.forwarding.pulling import Pulls
from reconciler.ledger.errors import LedgerUnavailable
from reconciler.ledger.storage.connection import LOOK_S, look_at, opened
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.ids import of_other_ledgers, read_event_id
from reconciler.ledger.views.unknowns import Known
from reconciler.polling.backfill_jobs import BackfillJobs

Responses = dict[int | str, dict[str, Any]]
"""Answers of a route other than its usual one, for OpenAPI."""


class Service:
    """The running service, as the API sees it. `trouble` says why the file at the ledger's path must not be used.
    `pulls` hands out events to those who fetch them.
    """

    def __init__(
        self,
        current: Callable[[], Config],
        known: Callable[[], Known],
        stream: Listeners,
        backfills: BackfillJobs,
        pulls: Pulls,
        trouble: Callable[[], str | None],
    ) -> None:
        self.current = current
        self.known = known
        self.stream = stream
        self.backfills = backfills
        self.pulls = pulls
        self._trouble = trouble

    @contextmanager
    def reading(self) -> Iterator[Database]:
        """The ledger, to read. Raises LedgerError."""
        with look_at(self.current().ledger.location, self._trouble) as db:
            yield db

    @contextmanager
    def writing(self) -> Iterator[Database]:
        """The ledger, to change. Raises LedgerError."""
        if (why := self._trouble()) is not None:
            raise LedgerUnavailable(why)
        with opened(self.current().ledger.location) as db:
            db.give_up_after(LOOK_S)
            yield db


def _service(request: Request) -> Service:
    found: Service = request.app.state.service
    return found


ServiceDep = Annotated[Service, Depends(_service)]


class Json(Response):
    """A JSON answer, whatever texts and numbers are in it."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        text = content if isinstance(content, str) else json_text(content)
        return text.encode("utf-8", "replace")


def json_text(value: Any) -> str:
    """As JSON, in one line."""
    try:
        return as_json(value)
    except TypeError:  # something in a column that no version of this program writes there
        return json.dumps(value, default=str)


def event_number(db: Database, text: str) -> int:
    """The number of the event that a URL or a body names. Raises Problem."""
    found = read_event_id(text)
    if found is None:
        how = "give a number, or the ID that destinations receive (evt_…)"
        raise Problem(422, f"{text[:80]!r} is not an event ID: {how}")
    if of_other_ledgers(db, [found]):
        raise Problem(404, f"{text}: made by another ledger")
    return found.number
