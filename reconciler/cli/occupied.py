"""Files that no command may replace: the config, the ledger, and the files that the config names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from reconciler.cli.common import USAGE, fail
from reconciler.config.load import load_with_secrets
from reconciler.config.mistakes import Path_, spell
from reconciler.config.models import Config
from reconciler.ledger.intake.places import files

_SQLITE = b"SQLite format 3\0"
_OTHER = "give another name"


def config_for(target: Path, file: Path) -> Config:
    """The config, for a command that writes to `target`. Ends the program if that is one of the files in use.

    Raises ConfigError.
    """
    config, secrets = load_with_secrets(file)
    for used, what in _in_use(file, config, secrets):
        if _same(target, used):
            fail(f"{target}: {what}: {_OTHER}", USAGE)
    rotated = re.fullmatch(r"(.+)\.[0-9]+", target.name)
    for key, path in _paths(config.destinations, ("destinations",)):
        if rotated and key[-1] == "path" and _same(target.with_name(rotated[1]), path):
            fail(f"{target}: is a rotated file of `{spell(key)}`: {_OTHER}", USAGE)
    keep_databases(target)
    return config


def keep_databases(target: Path) -> None:
    """End the program if there is a database at this path: perhaps a ledger of another config, or a backup."""
    try:
        if not target.is_file():
            return
        with target.open("rb") as file:
            begins = file.read(len(_SQLITE))
    except (OSError, RuntimeError, ValueError):  # whoever writes there says what is wrong
        return
    if begins == _SQLITE:
        fail(f"{target}: is an SQLite database, like a ledger or a backup: {_OTHER}", USAGE)


def _in_use(file: Path, config: Config, secrets: dict[Path_, Path]) -> Iterator[tuple[Path, str]]:
    yield file, "is the config"
    ledger = config.ledger.location
    if isinstance(ledger, Path):
        yield ledger, "is the ledger"
        for one in files(ledger):
            yield one, "belongs to the ledger"
    for key, path in (*_paths(config, ()), *secrets.items()):
        if key != ("ledger", "path"):
            yield path, f"is the file of `{spell(key)}`"
    for place, destination in enumerate(config.destinations):
        if (written := destination.written_file) is not None:
            yield written.path, f"is the file of `{spell(('destinations', place, written.key))}`"


def _paths(value: Any, key: Path_) -> Iterator[tuple[Path_, Path]]:
    """All paths in the config, each with its key."""
    if isinstance(value, Path):
        yield key, value
    elif isinstance(value, BaseModel):
        for name, below in value:
            yield from _paths(below, (*key, name))
    elif isinstance(value, list):
        for place, below in enumerate(value):
            yield from _paths(below, (*key, place))


def _same(one: Path, other: Path) -> bool:
    try:
        return one.resolve() == other.resolve() or one.samefile(other)
    except (OSError, RuntimeError, ValueError):  # one of them is not there, or can't be looked at
        return False
