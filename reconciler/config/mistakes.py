"""What is wrong with a config, and where."""

from __future__ import annotations

import msgspec

Path_ = tuple[str | int, ...]
"""The way to a key: `("destinations", 0, "url")`."""


class Mistake(msgspec.Struct, frozen=True, order=True):
    """One thing that is wrong, and where: `config.yaml:14: destinations[0].url: …`."""

    file: str
    line: int
    key: str
    what: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}: " if self.line else f"{self.file}: "
        return where + (f"{self.key}: " if self.key else "") + self.what


class ConfigError(Exception):
    """The config can't be used. `mistakes` says why, all of it."""

    def __init__(self, mistakes: list[Mistake]) -> None:
        super().__init__("\n".join(str(mistake) for mistake in mistakes))
        self.mistakes = mistakes


class Misplaced(ValueError):
    """What a section's check finds wrong with keys below it, each to be told at its own line.

    `places` has the way to each key, from the section on, what is wrong with it, and the way to the key that it does
    not agree with, if there is one.
    """

    def __init__(self, *places: tuple[Path_, str, Path_ | None]) -> None:
        super().__init__("; ".join(f"{spell(path)}: {what}" for path, what, _ in places))
        self.places = places


def spell(path: Path_) -> str:
    """`("destinations", 0, "url")` as `destinations[0].url`."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text
