"""Times on the command line: dates, times and ages."""

from __future__ import annotations

from typing import Annotated

import typer

from reconciler.events import moments
from reconciler.events.moments import HOW
from reconciler.events.times import Millis

FromOption = Annotated[
    str | None,
    typer.Option("--from", help=f"Only events on or after this date or time (UTC): {HOW}."),
]
ToOption = Annotated[
    str | None,
    typer.Option("--to", help="Only events up to the end of this date, or before this time. Same formats as --from."),
]


def moment(text: str | None, *, end_of_day: bool = False) -> Millis | None:
    """As `events.moments.moment`. Raises typer.BadParameter."""
    try:
        return moments.moment(text, end_of_day=end_of_day)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def time_range(since: str | None, until: str | None) -> tuple[Millis | None, Millis | None]:
    """The range of --from and --to. A range of dates includes both days. Raises typer.BadParameter."""
    start, end = moment(since), moment(until, end_of_day=True)
    if start is not None and end is not None and start >= end:
        raise typer.BadParameter("--from must be before --to")
    return start, end
