"""Which projects are active, in a few requests for all of them."""

from __future__ import annotations

from typing import Any

from reconciler.events import times
from reconciler.events.fields import number
from reconciler.events.times import DAY, Millis
from reconciler.sources.client import Client

PER_PAGE = 100


class Activity:
    """Asks the token's own events feed (all its projects' records) and the list of recently active projects.

    Neither is proof of quiet: the feed knows what the Events API knows, and `last_activity_at` moves at most once
    an hour (gitlab-facts, section 6). Where the token may not read one of them, the other has to do.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    def since(self, moment: Millis) -> set[int]:
        """The ids of projects in which something happened since then.

        Raises SourceError.
        """
        day = times.iso(Millis(moment - 2 * DAY))[:10]  # `after` is a day, excluded, in a zone that is not known
        feed = {"scope": "all", "after": day, "sort": "desc"}
        recent = {
            "membership": "true",
            "last_activity_after": times.iso(moment),
            "order_by": "last_activity_at",
            "simple": "true",
            "archived": "false",
        }
        active = self._ids("/events", feed, "project_id", "created_at", moment)
        return active | self._ids("/projects", recent, "id", "last_activity_at", moment)

    def _ids(self, path: str, query: dict[str, Any], field: str, time: str, since: Millis) -> set[int]:
        """Read a list, newest first, down to a time."""
        found = set()
        page: str | None = "1"
        while page is not None:
            answer = self._client.page(path, {**query, "per_page": PER_PAGE, "page": page})
            page = answer.next_page
            for record in answer.records:
                at, ident = times.parse(record.get(time)), number(record.get(field))
                if at is not None and at < since:
                    page = None
                elif ident is not None:
                    found.add(ident)
        return found
