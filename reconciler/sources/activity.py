"""Finds out which projects are active, with a few requests for all of them."""

from __future__ import annotations

from typing import Any

from reconciler.events import times
from reconciler.events.times import DAY, Millis
from reconciler.sources import answers
from reconciler.sources.client import Client


class Activity:
    """Asks the token's own events feed and the list of recently active projects.

    Neither is proof of quiet: both know only the projects of which the token's user is a member, the feed knows what
    the Events API knows, and `last_activity_at` moves at most once an hour (docs/gitlab.md, "Rate limits"). If the
    token may not read one of them, the other has to suffice.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    def since(self, moment: Millis) -> set[int]:
        """The ids of projects in which something happened since then.

        Raises SourceError.
        """
        day = times.iso(Millis(moment - 2 * DAY))[:10]  # `after` is an excluded day in an unknown time zone
        feed = {"scope": "all", "after": day, "sort": "desc"}
        recent = {
            "membership": "true",
            "last_activity_after": times.iso(moment),
            "order_by": "last_activity_at",
            "simple": "true",
            "archived": "false",
        }
        return self._down_to("/events", answers.Feed, feed, moment) | self._down_to(
            "/projects", answers.Recent, recent, moment
        )

    def _down_to(
        self, path: str, shape: type[answers.Feed | answers.Recent], query: dict[str, Any], since: Millis
    ) -> set[int]:
        """Read a list, newest first, down to a time. Records that can't be parsed are skipped."""
        found: set[int] = set()
        for page in self._client.pages(path, shape, query):
            for record in page.records:
                project, text = record.shown.active
                at = times.parse(text)
                if at is not None and at < since:
                    return found
                if project is not None:
                    found.add(project)
        return found
