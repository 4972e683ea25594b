"""Names, ports and files that must be unique across the config."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path

from reconciler.config.destinations import WrittenFile
from reconciler.config.mistakes import Path_, spell
from reconciler.location import Location

Clash = tuple[Path_, str, Path_]
"""A key, the message, and the key that it conflicts with."""


def twice(where: Path_, names: Sequence[int | str], below: Path_ = ()) -> Iterator[Clash]:
    """Entries of a list whose name is already used."""
    first: dict[str, int] = {}
    for place, name in enumerate(names):
        before = first.setdefault(str(name), place)
        if before != place:
            other = (*where, before, *below)
            yield (*where, place, *below), f"{name} is used twice: also by {spell((*where, before))}", other


def ports(**listening: tuple[str, int | None]) -> Iterator[Clash]:
    """Sections that would listen on the same port."""
    for (first, (host, port)), (second, (other_host, other_port)) in combinations(listening.items(), 2):
        if port and port == other_port and _overlap(host, other_host):
            what = f"{port} is already used by {first}.port: each needs its own port"
            yield (second, "port"), what, (first, "port")


def _overlap(one: str, other: str) -> bool:
    """Whether two hosts have an address in common, as far as can be told without DNS."""
    return _address(one) == _address(other) or _is_any(one) or _is_any(other)


def _address(host: str) -> str:
    return "127.0.0.1" if host.lower() == "localhost" else host.lower()


def _is_any(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def files(ledger: Location, written: Sequence[WrittenFile | None]) -> Iterator[Clash]:
    """Destinations that would write to the ledger, or to the file of another destination."""
    taken: dict[Path, tuple[Path_, bool]] = {}
    if isinstance(ledger, Path):
        taken[ledger.resolve()] = (("ledger", "path"), False)
    for place, one in enumerate(written):
        if one is None:
            continue
        here = ("destinations", place, one.key)
        other, is_shared = taken.setdefault(one.path.resolve(), (here, one.is_shared))
        if other != here and not (is_shared and one.is_shared):
            yield here, f"is the same file as {spell(other)}: each needs its own", other
