"""Stores the pages of a list that is read newest first, so that they can be recorded oldest first.

Events get their ids, and destinations their deliveries, in the order of recording, which should be oldest first.
GitLab's lists come newest first and may be long: a week of a busy hook log, a month of a busy project. So small lists
wait in memory, and large ones in an unnamed temporary file.
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
    """A stack of pages: `add` pushes one, `backwards` pops them. Use it as a context manager."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES)  # noqa: SIM115 - closed by __exit__
        self._starts = array("Q")

    def add(self, records: Sequence[Any]) -> None:
        """Store a page.

        Raises SourceError if the disk is full.
        """
        try:
            self._starts.append(self._file.tell())
            self._file.write(orjson.dumps(records))
        except OSError as error:
            raise SourceError(f"can't store what was read from GitLab in {tempfile.gettempdir()}: {error}") from error

    def backwards(self) -> Iterator[list[Any]]:
        """Pop all pages, last one first, each with its last record first."""
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
