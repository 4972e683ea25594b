"""The destinations of the config and of the ledger as one list, for those who show them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from reconciler.config.destination_kinds import find_kind
from reconciler.config.destinations import Destination
from reconciler.config.models import Config
from reconciler.ledger.views.status import DestinationStatus


def destination_rows(config: Config, known: Iterable[DestinationStatus]) -> list[dict[str, Any]]:
    """A row for each destination, by name. `known` are those of the ledger."""
    wanted = {one.name: one for one in config.destinations}
    found = {one.name: one for one in known}
    return [_row(name, wanted.get(name), found.get(name)) for name in sorted(wanted.keys() | found.keys())]


def _row(name: str, wanted: Destination | None, known: DestinationStatus | None) -> dict[str, Any]:
    found: dict[str, Any] = {"name": name, "kind": None, "type": None, "to": None, "state": "not served yet"}
    if wanted is not None:
        to = find_kind(wanted.kind)(wanted).address
        found |= {"kind": wanted.kind, "type": wanted.type, "to": to}
    plain = {} if known is None else msgspec.to_builtins(known)
    return found | {"pending": None, "dead_letters": None} | plain
