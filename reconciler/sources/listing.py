"""The common part of all sources that read one of GitLab's lists."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from reconciler.events import times
from reconciler.events.intervals import Interval
from reconciler.events.sighting import Identity, Precision, Sighting
from reconciler.events.times import DAY, SECOND, Millis
from reconciler.events.unreadable import Unreadable
from reconciler.reconstruct import SourceData
from reconciler.sources import answers, checked
from reconciler.sources.answers import Json
from reconciler.sources.checked import Page, Read, ShapeT
from reconciler.sources.client import Client
from reconciler.sources.details import Details
from reconciler.sources.errors import GitLabRefused, SourceError, Unavailable, UnexpectedAnswer
from reconciler.sources.source import FOREVER, Built, Project, Slice
from reconciler.sources.spool import Spool
from reconciler.sources.webhook_payload import explain, listed_record, to_webhook_payload_or_record

SLICE = Millis(31 * DAY)
"""The longest window that is read at once: GitLab's offset paging ends at 50,000 records."""
RECENT = Millis(DAY)
"""A part that ended less long ago is requested without an end: records that change now would shift the pages."""

UNAUTHORISED, NOT_FOUND = 401, 404
FAILURES = 3
"""How many times in a row the list of one record must fail before the record is skipped."""
REMEMBERED = 20_000
"""How many versions of records are remembered as read. A forgotten one costs some requests."""

BelowT = TypeVar("BelowT", bound=answers.Shape)

Version = tuple[int, str, str]
"""A version of a record: its project, its name, its `updated_at`."""


@dataclass
class Reading:
    """The state of reading a page: where it is from, and the unreadable and understood records."""

    project: Project
    part: Interval
    details: Details
    unreadable: list[Unreadable] = field(default_factory=list)
    understood: list[str] = field(default_factory=list)


class Listing(Generic[ShapeT]):
    """Reads a window of a list, newest first, and yields its sightings oldest first. `shape` is the type of a record.
    Subclasses say which list to read, and which sightings a record has.
    """

    name: str
    shape: type[ShapeT]
    keeps_for: Millis = FOREVER
    rebuilds_lazily = False
    once_per_version = False
    """Whether a record is skipped if this version of it was read before: for records that cost requests of their
    own."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._read_from: dict[Version, Millis] = {}
        self._failures: dict[str, int] = {}

    def read(self, project: Project, window: Interval) -> Iterator[Slice]:
        """Read a window, oldest slice first."""
        start = window.start
        while start < window.end:
            part = Interval(start, min(Millis(start + SLICE), window.end))
            yield from self._read(project, part)
            yield Slice(covered=part)
            start = part.end

    def pages(self, project: Project, part: Interval) -> Iterator[Page[ShapeT]]:
        """The list's pages, with the records that may belong to this part of the window."""
        raise NotImplementedError

    def sightings(self, reading: Reading, record: Read[ShapeT]) -> Iterator[Sighting]:
        """The sightings of a record. May raise ValueError for a record that can't be used."""
        raise NotImplementedError

    def build(self, project: Project, sightings: Sequence[Sighting], *, details: bool) -> Built:
        """A list's payloads are built when it is read, unless a subclass says otherwise."""
        return Built(list(sightings))

    def changed(self, path: str, project: Project, part: Interval, query: dict[str, Any]) -> Iterator[Page[ShapeT]]:
        """The pages of a list that is ordered by `updated_at`, with the records that changed in this part."""
        after = times.iso(Millis(part.start - SECOND))
        asked = {"updated_after": after, "order_by": "updated_at", "sort": "desc", **query}
        if part.end < times.now() - RECENT:
            asked["updated_before"] = times.iso(Millis(part.end + SECOND))
        for page in self._client.pages(path, self.shape, asked):
            fits = [record for record in page.records if self._is_wanted(record, project, part)]
            yield Page(fits, page.unreadable)

    def below(
        self, reading: Reading, record: Read[ShapeT], path: str, shape: type[BelowT], query: dict[str, Any]
    ) -> Iterator[Page[BelowT]]:
        """The pages of a list that belongs to one record. If only this list can't be read, the record counts as
        unreadable; if GitLab fails to answer, only after several failures. A record that was deleted meanwhile has no
        pages.
        """
        below = f"{record.ident}/{path.rpartition('/')[2]}"
        try:
            for page in self._client.pages(path, shape, query):
                reading.unreadable += [
                    Unreadable(f"{below}/{bad.record_id}", bad.error, bad.raw) for bad in page.unreadable
                ]
                reading.understood += [f"{below}/{one.ident}" for one in page.records]
                yield page
        except GitLabRefused as error:
            if error.status == UNAUTHORISED:
                raise
            if error.status != NOT_FOUND:
                reading.unreadable.append(Unreadable(below, str(error), ""))
        except Unavailable as error:
            self._failures[path] = self._failures.pop(path, 0) + 1
            is_lasting = isinstance(error, UnexpectedAnswer) or self._failures[path] >= FAILURES
            if not (is_lasting and self._client.is_alone(error)):
                raise
            reading.unreadable.append(Unreadable(below, str(error), ""))
        else:
            self._failures.pop(path, None)
            reading.understood.append(below)

    def make_sighting(
        self,
        failed: list[Unreadable],
        kind: str,
        source_id: str,
        key: str,
        happened_at: Millis,
        data: SourceData,
        *,
        once: bool = False,
    ) -> Sighting:
        """Make a sighting of this source. `once`: the key holds an id that GitLab uses once. If no body can be built,
        the record is added to `failed`.
        """
        identity = Identity(key, happened_at, Precision.UNIQUE_ID if once else Precision.GITLAB_TIME)
        return self.with_payload(failed, listed_record(self.name, source_id, identity, kind, data), data)

    def with_payload(self, failed: list[Unreadable], sighting: Sighting, data: SourceData) -> Sighting:
        """The sighting with its webhook payload. If none can be built, the record is added to `failed`."""
        return to_webhook_payload_or_record(
            sighting,
            sighting.summary.kind,
            data,
            gitlab_url=self._client.url,
            failed=failed,
            name_in=self.shape.name_in,
        )

    def _read(self, project: Project, part: Interval) -> Iterator[Slice]:
        with Spool() as spool:
            for page in self.pages(project, part):
                spool.add([record.raw for record in page.records])
                if page.unreadable:
                    yield Slice(unreadable=page.unreadable)
            for raws in spool.backwards():
                yield self._slice(Reading(project, part, Details(self._client, project)), raws)
                self._remember(raws, project, part)  # after the yield: the slice is recorded by then

    def _slice(self, reading: Reading, raws: Sequence[Json]) -> Slice:
        found: dict[str, Sighting] = {}
        for record in checked.read_again(raws, self.shape):
            found |= {sighting.source_id: sighting for sighting in self._sightings(reading, record)}
        in_order = sorted(found.values(), key=lambda s: (s.identity.happened_at, s.source_id))
        return Slice(sightings=in_order, unreadable=reading.unreadable, understood=reading.understood)

    def _sightings(self, reading: Reading, record: Read[ShapeT]) -> list[Sighting]:
        """The sightings of a record; none if it can't be used."""
        known = len(reading.unreadable)
        try:
            found = list(self.sightings(reading, record))
        except SourceError:
            raise
        except Exception as error:  # one bad record must not affect the others
            reading.unreadable.append(checked.unreadable(record.raw, self.shape.name_in, explain(error)))
            return []
        if len(reading.unreadable) == known:
            reading.understood.append(record.ident)
        return found

    def _is_wanted(self, record: Read[ShapeT], project: Project, part: Interval) -> bool:
        if not part.start <= (times.parse(record.raw.get("updated_at")) or part.start) < part.end:
            return False
        return (
            not self.once_per_version
            or self._read_from.get(self._version(project, record.raw), part.end) > part.start
        )

    def _remember(self, raws: Sequence[Json], project: Project, part: Interval) -> None:
        for raw in raws if self.once_per_version else ():
            version = self._version(project, raw)
            self._read_from[version] = min(part.start, self._read_from.pop(version, part.start))
        while len(self._read_from) > REMEMBERED:
            del self._read_from[next(iter(self._read_from))]

    def _version(self, project: Project, raw: Json) -> Version:
        return project.id, checked.name_of(raw, self.shape.name_in), str(raw.get("updated_at"))
