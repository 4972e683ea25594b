"""What `check` and `setup` find: what was looked at, whether it is as it should be, and what to do if not."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from reconciler.cli.common import out
from reconciler.sources.errors import SourceError


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at; `advice` where it is not as it should be. With `is_warning` nothing is
    broken, but less is recovered. `project`: whose it is, where many may have the same.
    """

    what: str
    ok: bool
    advice: str | None = None
    is_warning: bool = False
    project: str | None = None


def show(finding: Finding) -> None:
    """Print it with a mark, and what to do below it."""
    mark, style = _mark(finding)
    out.print(mark, end=" ", style=style)
    out.print(finding.what)
    if finding.advice:
        out.print(f"  {finding.advice}")


def attempt(what: str, look: Callable[[], str]) -> Finding:
    """What a look at GitLab finds."""
    try:
        return Finding(f"{what}: {look()}", True)
    except SourceError as error:
        return Finding(what, False, str(error))
    except (KeyError, TypeError, AttributeError, ValueError):
        return Finding(what, False, "the response is not GitLab's: is gitlab.url right?")


def _mark(finding: Finding) -> tuple[str, str]:
    if finding.ok:
        return "✓", "green"
    return ("!", "yellow") if finding.is_warning else ("✗", "red")
