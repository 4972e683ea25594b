"""Reading `config.yaml`: environment, secret files, and mistakes reported with file, line and key, all at once."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml
from pydantic import ValidationError

from reconciler.config.building import unbuildable
from reconciler.config.models import Config

_VARIABLE = re.compile(r"\$\$|\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_FILES = ("ca_file", "cert_file", "key_file", "credentials_file")
"""Keys that name a file which is read by who uses it; every other `…_file` holds a secret."""


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


Path_ = tuple[str | int, ...]


class _Reader:
    """Turns YAML nodes into plain values, noting the line of every key and every mistake on the way."""

    def __init__(self, file: Path, environ: Mapping[str, str]) -> None:
        self.file = file
        self.environ = environ
        self.lines: dict[Path_, int] = {(): 1}
        self.mistakes: list[Mistake] = []

    def wrong(self, path: Path_, what: str) -> None:
        self.mistakes.append(Mistake(str(self.file), self.line_of(path), spell(path), what))

    def line_of(self, path: Path_) -> int:
        """The line of a key, or of the nearest thing around it that is there."""
        return self.lines[self.written(path)]

    def written(self, path: Path_) -> Path_:
        """The nearest thing around a key that stands in the file: what is given shortly shows fewer keys."""
        while path not in self.lines:
            path = path[:-1]
        return path

    def value(self, node: yaml.Node, path: Path_ = ()) -> Any:
        self.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        return self._scalar(node, path)

    def _mapping(self, node: yaml.MappingNode, path: Path_) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            self.lines[*path, key] = key_node.start_mark.line + 1
            if key in found:
                self.wrong((*path, key), "stands here twice")
            found[key] = self.value(value_node, (*path, key))
        for key in [k for k in found if k.endswith("_file") and k not in _FILES]:
            self._read_secret(found, key, path)
        return found

    def _scalar(self, node: yaml.Node, path: Path_) -> Any:
        text = node.value
        if isinstance(text, str) and "$" in text:
            filled = self._fill(text, path)
            if not filled:  # `${NAME:-}`: as if the key were not there
                return None
            return filled
        try:
            return yaml.SafeLoader("").construct_object(node)
        except (yaml.YAMLError, ValueError) as error:
            self.wrong(path, f"can't be read: {error}")
            return None

    def _fill(self, text: str, path: Path_) -> str:
        def replace(found: re.Match[str]) -> str:
            if found[0] == "$$":
                return "$"
            value = self.environ.get(found[1]) or found[2]
            if value is None:
                self.wrong(path, f"the environment variable {found[1]} is not set (and has no `:-default` here)")
                return "x"  # keeps other checks from complaining about the same thing
            return value

        return _VARIABLE.sub(replace, text)

    def _read_secret(self, found: dict[str, Any], key: str, path: Path_) -> None:
        """`token_file: path` becomes `token: <what the file holds>`."""
        name, target = key.removesuffix("_file"), found.pop(key)
        if target is None:
            return
        if found.get(name) is not None:
            self.wrong((*path, key), f"give either `{name}` or `{key}`, not both")
            return
        secret = (self.file.parent / str(target)).expanduser()
        self.lines[*path, name] = self.lines[*path, key]
        try:
            text = secret.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text"
            self.wrong((*path, key), f"can't read {secret}: {reason}")
            found[name] = None
            return
        if not text:
            self.wrong((*path, key), f"{secret} is empty")
        found[name] = text or None


def load(file: Path, environ: Mapping[str, str] | None = None) -> Config:
    """Read and check a config file. Relative paths in it are taken from its folder.

    Raises ConfigError with every mistake that was found.
    """
    reader = _Reader(file, os.environ if environ is None else environ)
    try:
        root = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except OSError as error:
        what = f"can't be read: {error.strerror}; `gitlab-reconciler init` writes one"
        raise ConfigError([Mistake(str(file), 0, "", what)]) from None
    except UnicodeDecodeError:
        raise ConfigError([Mistake(str(file), 0, "", "is no UTF-8 text")]) from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise ConfigError([Mistake(str(file), line, "", f"no valid YAML: {error.problem}")]) from None
    except yaml.YAMLError as error:
        raise ConfigError([Mistake(str(file), 0, "", f"no valid YAML: {error}")]) from None
    except RecursionError:
        raise ConfigError([Mistake(str(file), 0, "", "is nested too deep")]) from None
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError([Mistake(str(file), 1, "", "should be a mapping, like `receiver: …`")])
    config = None
    try:
        values = reader.value(root)
        config = Config.model_validate(values, context={"folder": file.resolve().parent})
    except RecursionError:
        raise ConfigError([Mistake(str(file), 0, "", "is nested too deep, or in itself")]) from None
    except ValidationError as error:
        known = {(m.line, m.key) for m in reader.mistakes}
        for problem in error.errors():
            path = problem["loc"] if problem["type"] == "missing" else reader.written(problem["loc"])
            if (reader.line_of(path), spell(path)) not in known:
                reader.wrong(path, _what(problem["type"], problem["msg"]))
    except Exception as error:  # a value that a check of ours did not foresee is a mistake in the config all the same
        raise ConfigError(
            [Mistake(str(file), 0, "", f"can't be checked: {type(error).__name__}: {error}")]
        ) from error
    if config is not None and not reader.mistakes:
        for place, why in unbuildable(config.destinations).items():
            reader.wrong(("destinations", place), why)
    if reader.mistakes or config is None:
        raise ConfigError(sorted(set(reader.mistakes), key=lambda m: (m.line, m.key, m.what)))
    return config


def spell(path: Path_) -> str:
    """`("destinations", 0, "url")` as `destinations[0].url`."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def _what(kind: str, message: str) -> str:
    return {
        "missing": "is missing",
        "extra_forbidden": "is not a key that is known here (misspelt?)",
        "string_pattern_mismatch": "may hold letters, digits and `.`, `_`, `-`, 64 at most",
    }.get(kind, message.removeprefix("Value error, ").replace("Input should", "should"))
