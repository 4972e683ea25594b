"""Tables that fit a terminal: long texts are cut, and nothing else ever breaks.

What is cut is whole in `--json`, in `show`, and where there is room for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, JustifyMethod, RenderableType
from rich.table import Table

from reconciler.events.texts import one_line

GAP = 2
"""Between two columns."""
PATH = "project"
"""The column whose texts say most at their end."""
NARROWEST = 8
"""A text is cut to this many characters before a column is left out."""


class Listing:
    """Rows under columns.

    `right` are figures. `texts` are cut where there is no room; every other column keeps its width. Where even that
    is too much, those of `spare` are left out, the last one first.
    """

    def __init__(
        self, *columns: str, right: Sequence[str] = (), texts: Sequence[str] = (), spare: Sequence[str] = ()
    ) -> None:
        self._columns = columns
        self._right, self._texts, self._spare = right, texts, spare
        self._rows: list[list[str]] = []
        self._styles: list[str | None] = []

    def add(self, *cells: str, style: str | None = None) -> None:
        """Add a row; each cell becomes one line."""
        self._rows.append([one_line(cell) for cell in cells])
        self._styles.append(style)

    def __bool__(self) -> bool:
        return bool(self._rows)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        widths = self._widths(options.max_width)
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, GAP, 0, 0))
        kept = [place for place, name in enumerate(self._columns) if name in widths]
        for place in kept:
            name = self._columns[place]
            justify: JustifyMethod = "right" if name in self._right else "left"
            table.add_column(name, justify=justify, width=widths[name], no_wrap=True, overflow="ellipsis")
        for row, style in zip(self._rows, self._styles, strict=True):
            table.add_row(*(self._cell(place, row[place], widths) for place in kept), style=style)
        yield table

    def _cell(self, place: int, text: str, widths: dict[str, int]) -> str:
        """A text as it is, since what is too long is cut at its end; a project's path at its beginning."""
        name = self._columns[place]
        return _end_of(text, widths[name]) if name == PATH else text

    def _widths(self, room: int) -> dict[str, int]:
        """How wide each column is that is shown."""
        widths = {
            name: max(cell_len(name), *(cell_len(row[place]) for row in self._rows), 0)
            for place, name in enumerate(self._columns)
        }
        spare = list(self._spare)
        while True:
            fitted = self._fitted(widths, room)
            if _total(fitted) <= room or not spare:
                return fitted
            widths.pop(spare.pop(), None)

    def _fitted(self, widths: dict[str, int], room: int) -> dict[str, int]:
        """Column widths after the widest text was shortened, repeatedly, until the table fits."""
        fitted = dict(widths)
        least = {name: min(width, max(NARROWEST, cell_len(name))) for name, width in widths.items()}
        while (over := _total(fitted) - room) > 0:
            able = {name: fitted[name] for name in self._texts if fitted.get(name, 0) > least.get(name, 0)}
            if not able:
                break
            widest = max(able, key=lambda name: able[name])
            next_widest = max((width for name, width in able.items() if name != widest), default=0)
            fitted[widest] -= max(1, min(over, able[widest] - max(next_widest, least[widest])))
        return fitted


def _end_of(text: str, width: int) -> str:
    if cell_len(text) <= width:
        return text
    while cell_len(text) > width - 1:
        text = text[1:]
    return f"…{text}"


def _total(widths: dict[str, int]) -> int:
    return sum(widths.values()) + GAP * (len(widths) - 1)
