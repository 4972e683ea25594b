"""One row a figure, printed as Markdown."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """A figure, what it is held against in the same run, their ratio, and the aim."""

    what: str
    ours: str
    against: str
    ratio: float | None
    aim: str


def markdown(rows: Iterable[Row]) -> str:
    lines = ["| what | ours | against | ratio | aim |", "|---|---:|---:|---:|---|"]
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        lines.append(f"| {row.what} | {row.ours} | {row.against} | {ratio} | {row.aim} |")
    return "\n".join(lines)
