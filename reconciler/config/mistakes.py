"""What is wrong with a config, and where."""

from __future__ import annotations

import msgspec

Path_ = tuple[str | int, ...]
"""The path of a key: `("destinations", 0, "url")`."""


class Mistake(msgspec.Struct, frozen=True, order=True):
    """One mistake and its place: `config.yaml:14: destinations[0].url: …`."""

    file: str
    line: int
    key: str
    what: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}: " if self.line else f"{self.file}: "
        return where + (f"{self.key}: " if self.key else "") + self.what


class ConfigError(Exception):
    """The config can't be used. `mistakes` has all mistakes that were found."""

    def __init__(self, mistakes: list[Mistake]) -> None:
        super().__init__("\n".join(str(mistake) for mistake in mistakes))
        self.mistakes = mistakes


class Misplaced(ValueError):
    """A mistake found by the check of a section, reported at the lines of the keys that cause it.

    `places` has, for each key, its path below the section, the message, and the path of the key that it conflicts
    with, if any.
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
