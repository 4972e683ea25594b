"""Pages put aside while a list is read from its newest end, to be told from the oldest on.

Events get their numbers, and destinations their deliveries, in the order in which they are recorded: oldest first.
GitLab's lists come newest first, and may be long: a week of a busy webhook's log, a month of a busy project. So what
was read waits in memory while it is little, else in a file without a name, which goes when nobody uses it any more.
"""

from __future__ import annotations

import tempfile
from array import array
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any

import orjson

from reconciler.sources.errors import SourceError

IN_MEMORY_BYTES = 4 * 1024 * 1024


class Spool:
    """A stack of pages: `add` puts one on top, `backwards` takes them off. `with Spool() as spool:`."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES)  # noqa: SIM115 - closed by __exit__
        self._starts = array("Q")

    def add(self, records: Sequence[Any]) -> None:
        """Put a page aside.

        Raises SourceError where there is no room for it.
        """
        try:
            self._starts.append(self._file.tell())
            self._file.write(orjson.dumps(records))
        except OSError as error:
            raise SourceError(
                f"what was read of GitLab can't be put aside in {tempfile.gettempdir()}: {error}"
            ) from error

    def backwards(self) -> Iterator[list[Any]]:
        """The pages, the one that was added last first, each with its last record first. They are gone then."""
        end = self._file.tell()
        while self._starts:
            start = self._starts.pop()
            self._file.seek(start)
            yield orjson.loads(self._file.read(end - start))[::-1]
            end = start

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
