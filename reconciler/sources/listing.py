"""What the sources that read one of GitLab's lists have in common."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from reconciler.events import times
from reconciler.events.sighting import Identity, Precision, Sighting
from reconciler.events.times import DAY, SECOND, Millis
from reconciler.ledger.coverage import Interval
from reconciler.reconstruct import Material
from reconciler.sources.client import Client
from reconciler.sources.details import Details
from reconciler.sources.shape import listed_sighting
from reconciler.sources.source import FOREVER, Project, Slice

PER_PAGE = 100
SLICE = Millis(31 * DAY)
"""A longer window is read in slices of so much: GitLab's offset pages end at 50,000 records."""
RECENT = DAY
"""In a slice that ends so recently nothing is asked to end it: what changes meanwhile would shift the pages."""


REMEMBERED = 20_000
"""How many versions of records are remembered as read; forgetting one costs some requests."""

Version = tuple[str, Any, Any]
"""A record as it was at some time: its list, its id, its `updated_at`."""


class Listing:
    """Reads a window of a list, newest first. A subclass says which list, and what a record of it tells."""

    name: str
    keeps_for: Millis = FOREVER
    completes = False

    def __init__(self, client: Client) -> None:
        self._client = client
        self._read_from: dict[Version, Millis] = {}

    def read(self, project: Project, window: Interval) -> Iterator[Slice]:
        """Read a window, oldest slice first."""
        start = window.start
        while start < window.end:
            part = Interval(start, min(Millis(start + SLICE), window.end))
            details, read = Details(self._client, project), list[Version]()
            found: dict[str, Sighting] = {}
            for record in self.records(project, part, read):
                for sighting in self.sightings(project, record, part, details):
                    found[sighting.source_id] = sighting
            yield Slice(part, sorted(found.values(), key=lambda s: (s.identity.happened_at, s.source_id)))
            self._remember(read, part)  # not before the slice was taken: the reader comes back for the next one
            start = part.end

    def records(self, project: Project, part: Interval, read: list[Version]) -> Iterator[dict[str, Any]]:
        """The list's records that may tell of this part of the past."""
        raise NotImplementedError

    def sightings(
        self, project: Project, record: dict[str, Any], part: Interval, details: Details
    ) -> Iterator[Sighting]:
        """What a record tells."""
        raise NotImplementedError

    def complete(self, project: Project, sightings: Sequence[Sighting]) -> list[Sighting]:
        """A list's records are whole unless a subclass says otherwise."""
        return list(sightings)

    def changed(self, path: str, part: Interval, query: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The records of a list that is ordered by `updated_at`, as far as they changed in a part of the past."""
        asked = {
            "updated_after": times.iso(Millis(part.start - SECOND)),
            "order_by": "updated_at",
            "sort": "desc",
            **query,
        }
        if part.end < times.now() - RECENT:
            asked["updated_before"] = times.iso(Millis(part.end + SECOND))
        for record in self.pages(path, asked):
            if part.start <= (times.parse(record.get("updated_at")) or part.start) < part.end:
                yield record

    def new_versions(
        self, path: str, part: Interval, query: dict[str, Any], read: list[Version]
    ) -> Iterator[dict[str, Any]]:
        """As `changed`, without what was read before as it is now: for records that cost requests of their own."""
        for record in self.changed(path, part, query):
            version = (path, record.get("id"), record.get("updated_at"))
            if self._read_from.get(version, part.end) > part.start:
                read.append(version)
                yield record

    def _remember(self, read: list[Version], part: Interval) -> None:
        for version in read:
            self._read_from[version] = min(part.start, self._read_from.pop(version, part.start))
        while len(self._read_from) > REMEMBERED:
            del self._read_from[next(iter(self._read_from))]

    def pages(self, path: str, query: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """All records of a list, page after page."""
        number: str | None = "1"
        while number is not None:
            page = self._client.page(path, {"per_page": PER_PAGE, **query, "page": number})
            yield from (record for record in page.records if isinstance(record, dict))
            number = page.next_page

    def told(
        self, kind: str, source_id: str, key: str, happened_at: Millis, material: Material, *, once: bool = False
    ) -> Sighting:
        """A sighting of this source. `once`: the key holds an id that GitLab uses once."""
        identity = Identity(key, happened_at, Precision.ONCE if once else Precision.STATED)
        return listed_sighting(self.name, source_id, identity, kind, material, gitlab_url=self._client.url)
