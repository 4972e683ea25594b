"""Reads `config.yaml`. All mistakes are reported at once, each with file, line and key."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from reconciler.config.building import unbuildable
from reconciler.config.messages import message_for
from reconciler.config.mistakes import ConfigError, Misplaced, Mistake, Path_, spell
from reconciler.config.models import Config
from reconciler.config.unknown_keys import unknown_key
from reconciler.config.yaml_reader import Reader, read_yaml

__all__ = ["ConfigError", "Mistake", "load", "load_with_secrets"]


def load(file: Path, environ: Mapping[str, str] | None = None) -> Config:
    """Read and check a config file. Relative paths are relative to its folder.

    Raises ConfigError with every mistake that was found.
    """
    return load_with_secrets(file, environ)[0]


def load_with_secrets(file: Path, environ: Mapping[str, str] | None = None) -> tuple[Config, dict[Path_, Path]]:
    """As `load`; also the files of secrets, each with its key. The config has their content only."""
    reader = Reader(file, os.environ if environ is None else environ)
    root = read_yaml(file, _text_of(file))
    config = None
    values: Any = None
    try:
        values = reader.values(root)
        config = Config.model_validate(values, context={"folder": file.resolve().parent})
    except ValidationError as error:
        known = {(m.line, m.key) for m in reader.mistakes}
        for problem in error.errors():
            for path, what in _located(problem, values, reader):
                if (reader.line_of(path), spell(path)) not in known:
                    reader.wrong(path, what)
    except Exception as error:  # a value that one of our checks did not expect
        what = f"can't be checked: {type(error).__name__}: {error}"
        raise ConfigError([*reader.mistakes, Mistake(str(file), 1, "", what)]) from error
    if config is not None and not reader.mistakes:
        for place, why in unbuildable(config.destinations).items():
            reader.wrong(("destinations", place), why)
    if reader.mistakes or config is None:
        raise ConfigError(sorted(set(reader.mistakes), key=lambda m: (m.line, m.key, m.what)))
    return config, reader.secrets


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        what = "does not exist: `gitlab-reconciler setup` or `init` writes one; --config names another"
    except IsADirectoryError:
        what = f"is a folder: name the file in it, like {file / 'config.yaml'}"
    except PermissionError:
        what = "can't be read by this user: see `ls -l`"
    except OSError as error:
        what = f"can't be read: {error.strerror}"
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError([Mistake(str(file), line, "", "is not UTF-8 text")]) from None
    raise ConfigError([Mistake(str(file), 0, "", what)])


def _located(problem: ErrorDetails, values: Any, reader: Reader) -> list[tuple[Path_, str]]:
    """The keys that a pydantic error is about, each with its message."""
    kind, path, context = problem["type"], problem["loc"], problem.get("ctx", {})
    cause = context.get("error")
    if isinstance(cause, Misplaced):
        return [
            (reader.written((*path, *below)), what + _line(reader, path, other))
            for below, what, other in cause.places
        ]
    if kind == "missing":
        return [(path, message_for(kind, "", None, {}))]
    if kind == "extra_forbidden":
        return [(reader.written(path), unknown_key(values, path))]
    return [(reader.written(path), message_for(kind, problem["msg"], problem["input"], context))]


def _line(reader: Reader, path: Path_, other: Path_ | None) -> str:
    return "" if other is None else f" (line {reader.line_of((*path, *other))})"
