"""Writes events as an export's format has them: lines of JSON, CSV, or Parquet."""

from __future__ import annotations

import io
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Literal

import msgspec

from reconciler.cli.common import USAGE, fail, json_text
from reconciler.events import times
from reconciler.events.fields import with_payload
from reconciler.events.texts import json_line, one_line, safe_json
from reconciler.ledger.views.export import Exported

GROUP_ROWS, GROUP_BYTES = 50_000, 16 * 1024 * 1024
"""A row group of Parquet ends when it has so many events, or so many characters of payload. It is held in memory."""

_TIMES = ("happened_at", "recorded_at", "seen_at")
_LISTS = ("sources", "unknown", "redacted")
_TO_QUOTE = re.compile('[",\r\n]')
COLUMNS = tuple(field.name for field in msgspec.structs.fields(Exported))


class Writer(ABC):
    """Writes to a file that is open. `finish` or `abandon` ends it."""

    @abstractmethod
    def write(self, events: Sequence[Exported]) -> None:
        """Write these events, or keep them until there are more."""

    def finish(self) -> None:  # noqa: B027 - most formats have no end
        """Write what is missing at the end."""

    def abandon(self) -> None:  # noqa: B027
        """Write nothing more."""


class Ndjson(Writer):
    """A line of JSON for each event. The payload is JSON as the ledger has it; line ends in it become spaces."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        # On a terminal nothing that others wrote may act; a file gets the text as it is kept.
        self._line: Callable[[str], str] = safe_json if file.isatty() else json_line

    def write(self, events: Sequence[Exported]) -> None:
        for one in events:
            self._file.write(self._line(_as_object(one)).encode() + b"\n")


def _as_object(one: Exported) -> str:
    fields = msgspec.structs.asdict(one)
    payload: str = fields.pop("payload")
    return with_payload(json_text(fields), payload)


class Csv(Writer):
    """RFC 4180 with a header and line feeds. Lists are JSON; a value that is not known is empty."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._shown: Callable[[str], str] = one_line if file.isatty() else str
        self._write([COLUMNS])

    def write(self, events: Sequence[Exported]) -> None:
        self._write([msgspec.structs.astuple(one) for one in events])

    def _write(self, rows: Sequence[Sequence[Any]]) -> None:
        self._file.write("".join(",".join(map(self._cell, row)) + "\n" for row in rows).encode())

    def _cell(self, value: Any) -> str:
        if value is None:
            return ""
        text = self._shown(json_text(value) if isinstance(value, list) else str(value))
        # Python's csv leaves a carriage return unquoted if lines end in a line feed: readers end the row there.
        return '"' + text.replace('"', '""') + '"' if _TO_QUOTE.search(text) else text


class Parquet(Writer):
    """Parquet, in row groups. Times are timestamps in UTC with milliseconds, lists are lists. A time that can't be
    read, which only a person can have written into the ledger, is not known.
    """

    def __init__(self, file: BinaryIO) -> None:
        try:
            import pyarrow as pa
            from pyarrow import parquet
        except ImportError as error:
            fail(f"--format parquet needs `pip install 'gitlab-reconciler[parquet]'`: {error}")
        types = dict.fromkeys(_TIMES, pa.timestamp("ms", tz="UTC")) | dict.fromkeys(_LISTS, pa.list_(pa.string()))
        types["project_id"] = pa.int64()
        self._schema = pa.schema([(name, types.get(name, pa.string())) for name in COLUMNS])
        self._table = pa.Table.from_pylist
        self._file = _Sink(file)
        self._writer = parquet.ParquetWriter(self._file, self._schema, compression="zstd")
        self._kept: list[dict[str, Any]] = []
        self._size = 0

    def write(self, events: Sequence[Exported]) -> None:
        for one in events:
            fields = msgspec.structs.asdict(one)
            self._kept.append(fields | {name: times.written(fields[name]) for name in _TIMES})
            self._size += len(one.payload)
            if len(self._kept) >= GROUP_ROWS or self._size >= GROUP_BYTES:
                self._write_group()

    def _write_group(self) -> None:
        self._writer.write_table(self._table(self._kept, schema=self._schema))
        self._kept, self._size = [], 0

    def finish(self) -> None:
        if self._kept:
            self._write_group()
        self._writer.close()

    def abandon(self) -> None:
        self._file.is_abandoned = True
        with suppress(Exception):
            self._writer.close()


class _Sink(io.RawIOBase):
    """What a Parquet writer writes to. It writes its last part whenever it is closed, also after an error."""

    def __init__(self, file: BinaryIO) -> None:
        self._to = file
        self.is_abandoned = False

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        return len(data) if self.is_abandoned else self._to.write(data)


Format = Literal["ndjson", "csv", "parquet"]
FORMATS: dict[Format, Callable[[BinaryIO], Writer]] = {"ndjson": Ndjson, "csv": Csv, "parquet": Parquet}

_SUFFIXES: dict[str, Format] = {".ndjson": "ndjson", ".jsonl": "ndjson", ".csv": "csv", ".parquet": "parquet"}


def format_for(given: Format | None, target: Path | None) -> Format:
    """The format that was asked for, else the one that the file's name ends in, else NDJSON. Ends the program if
    name and format disagree.
    """
    named = None if target is None else _SUFFIXES.get(target.suffix.lower())
    if given is not None and named not in (None, given):
        fail(f"{target}: a file of this name would be {named}, not {given}: change the name or --format", USAGE)
    return given or named or "ndjson"
