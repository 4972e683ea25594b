"""Prints an event as it would be sent to a destination."""

from __future__ import annotations

from reconciler.cli.common import out
from reconciler.forwarding.rendering import Rendered


def print_request(request: Rendered) -> None:
    """Print headers and body, or the error."""
    for name, value in request.headers.items():
        out.print(f"{name}: {value}")
    out.print(request.error or f"\n{request.body}\n")
