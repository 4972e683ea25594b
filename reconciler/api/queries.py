"""The query parameters of lists, and their cursors."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, ClassVar, Literal

import msgspec
from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field

from reconciler.api.problems import Problem
from reconciler.events import fields, moments, times
from reconciler.events.moments import HOW
from reconciler.ledger.views.browse import FAR, Filter, Place
from reconciler.ledger.views.dead_letters import Letter

LARGEST_PAGE = 500

Word = Annotated[str | None, Field(min_length=1, max_length=500)]
TIME = f"a date or time (UTC): {HOW}"


def as_expected(request: Request) -> None:
    """Every request's. Raises Problem for what would silently be left out otherwise."""
    given = [name for name, _ in request.query_params.multi_items()]
    if (twice := next((name for name in given if given.count(name) > 1), None)) is not None:
        raise Problem(422, f"{twice[:80]}: is given twice")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    has_body = request.headers.get("content-length", "0") != "0"
    if has_body and kind != "application/json" and not kind.endswith("+json"):
        raise Problem(415, "the body must be JSON: send `Content-Type: application/json`")


class Query(BaseModel):
    """Unknown parameters are refused: a misspelt one would silently leave a filter out."""

    model_config = ConfigDict(extra="forbid")


class Page(Query):
    """`limit` and `cursor` of a list. `listed` is what it lists: a cursor belongs to one list."""

    listed: ClassVar[str] = "runs"

    limit: int = Field(50, ge=1, le=LARGEST_PAGE, description="At most this many.")
    cursor: str | None = Field(
        None, max_length=500, description="`next` of the page before, with the same other parameters."
    )

    def place(self) -> tuple[int, str] | None:
        """What the cursor says. Raises Problem."""
        if self.cursor is None:
            return None
        try:
            text = base64.b64decode(self.cursor.encode("ascii"), altchars=b"-_", validate=True).decode()
        except (binascii.Error, UnicodeError):
            text = ""
        listed, _, place = text.partition(" ")
        number, _, rest = place.partition(" ")
        found = fields.number(number)
        if listed != self.listed or found is None or not 0 <= found <= FAR:
            raise self.wrong_cursor()
        return found, rest

    @staticmethod
    def wrong_cursor() -> Problem:
        return Problem(422, "cursor: belongs to another list: use `next` of the page before, unchanged")


def cursor(page: type[Page], number: int, rest: str = "") -> str:
    """A cursor for `Page.place`."""
    return base64.urlsafe_b64encode(f"{page.listed} {number} {rest}".encode()).decode()


class Chosen(Query):
    """Which events: parameters of lists, and of replays."""

    project: Word = Field(None, description="Only this project (ID or path).")
    kind: Word = Field(None, description="Only events of this kind: push, issue, merge_request, note, …")
    since: Word = Field(None, alias="from", description=f"Only events on or after {TIME}.")
    until: Word = Field(
        None, alias="to", description="Only events up to the end of this date, or before this time. As `from`."
    )

    def filter(self) -> Filter:
        """As a filter of the ledger. Raises Problem for times that are none."""
        try:
            start, end = moments.time_range(self.since, self.until)
        except ValueError as error:
            raise Problem(422, f"from, to: {error}") from None
        project = fields.number(self.project) or self.project
        return Filter(project=project, kind=self.kind, since=start, until=end)


class StreamQuery(Chosen):
    """Parameters of the stream of events."""

    action: Word = Field(None, description="Only events with this action: open, merge, …")
    author: Word = Field(None, description="Only events of this author (user name).")
    source: Word = Field(
        None, description="Only events seen by this source: webhook, webhook:NAME, project_events, …"
    )
    q: Word = Field(
        None, description="Only events with these words: as on the dashboard, such as `author:ada branch:main #12`."
    )

    def filter(self) -> Filter:
        """As a filter of the ledger. Raises Problem."""
        found = super().filter()
        return msgspec.structs.replace(found, action=self.action, author=self.author, source=self.source)


class EventQuery(StreamQuery, Page):
    """Parameters of the list of events."""

    listed: ClassVar[str] = "events"

    delivery: Literal["pending", "retrying", "delivered", "dead", "discarded"] | None = Field(
        None, description="Only events with a delivery in this state."
    )

    def filter(self) -> Filter:
        """As a filter of the ledger. Raises Problem."""
        return msgspec.structs.replace(super().filter(), delivery=self.delivery)

    def before(self, wanted: Filter) -> Place | None:
        """Where the page begins. Raises Problem."""
        found = self.place()
        if found is None:
            return None
        at = found[1] or None
        by_time = wanted.has_times and self.q is None
        if (at is not None) != by_time or (at is not None and times.written(at) is None):
            raise self.wrong_cursor()
        return Place(found[0], at)


class DeadLetterQuery(Chosen, Page):
    """Parameters of the list of dead letters."""

    listed: ClassVar[str] = "dead_letters"

    destination: Word = Field(None, description="Only dead letters of this destination.")

    def before(self) -> Letter | None:
        """Where the page begins. Raises Problem."""
        found = self.place()
        if found is None:
            return None
        if not found[1]:
            raise self.wrong_cursor()
        return Letter(*found)
