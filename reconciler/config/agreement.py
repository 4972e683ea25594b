"""What has to differ from one part of the config to another: names, ports, files."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path

from reconciler.config.mistakes import Path_, spell

Clash = tuple[Path_, str, Path_]
"""A key, what is wrong with it, and the key with which it does not agree."""


def twice(where: Path_, names: Sequence[int | str], below: Path_ = ()) -> Iterator[Clash]:
    """Entries of a list whose name stands there before."""
    first: dict[str, int] = {}
    for place, name in enumerate(names):
        before = first.setdefault(str(name), place)
        if before != place:
            other = (*where, before, *below)
            yield (*where, place, *below), f"{name} is used twice: also by {spell((*where, before))}", other


def ports(**listening: tuple[str, int | None]) -> Iterator[Clash]:
    """Sections that would listen where another does."""
    for (first, (host, port)), (second, (other_host, other_port)) in combinations(listening.items(), 2):
        if port and port == other_port and _overlap(host, other_host):
            what = f"{port} is already used by {first}.port: each needs its own port"
            yield (second, "port"), what, (first, "port")


def _overlap(one: str, other: str) -> bool:
    """Whether two hosts have an address in common, as far as can be seen without looking names up."""
    return _address(one) == _address(other) or _is_any(one) or _is_any(other)


def _address(host: str) -> str:
    return "127.0.0.1" if host.lower() == "localhost" else host.lower()


def _is_any(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def files(ledger: Path, written: Sequence[object]) -> Iterator[Clash]:
    """Destinations that would write into the ledger, or into the file of another."""
    taken: dict[Path, Path_] = {ledger.resolve(): ("ledger", "path")}
    for place, path in enumerate(written):
        if isinstance(path, Path):
            here = ("destinations", place, "path")
            other = taken.setdefault(path.resolve(), here)
            if other != here:
                yield here, f"is the same file as {spell(other)}: each needs its own", other
