"""From YAML to plain values, with the line of every key, the environment, and secrets from files."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from reconciler.config.mistakes import ConfigError, Mistake, Path_, spell

_DOLLAR = re.compile(
    r"\$\$"
    r"|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}"
    r"|(?P<odd>\$\{[^}]*\}?)"
    r"|(?<!\S)\$(?P<bare>[A-Z_][A-Z0-9_]*)(?!\S)"
)
_FILES = ("ca_file", "cert_file", "key_file", "credentials_file")
"""Keys of files that are read by whoever uses them. Any other `…_file` contains a secret."""
_FAST: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml, if PyYAML was built with it. It is ten times as fast, which matters with 10,000 projects."""
_NOT_THERE: Final = object()
"""The value of `${NAME:-}` if NAME is not set: the key is left out."""
_DEEPEST = 60
"""Maximum levels of nesting. A config needs eight."""
_HINTS = {
    "found character '\\t' that cannot start any token": "indent with spaces, not with tabs",
    "mapping values are not allowed here": "is this line indented as those around it? A text with `: ` in it needs "
    "quotes",
    "could not find expected ':'": "is a `:` missing after a key, or the space after it?",
    "found unexpected end of stream": "is a quote or a bracket not closed?",
}


def read_yaml(file: Path, text: str) -> yaml.MappingNode:
    """The root node of a config. Raises ConfigError if there is none."""
    try:
        root = _composed(file, text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise _unusable(file, line, f"not valid YAML: {_hinted(error.problem or 'it breaks off')}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        code = error.character if isinstance(error.character, int) else ord(error.character)
        raise _unusable(file, line, f"not valid YAML: the character U+{code:04X} can't stand here") from None
    if root is None:
        raise _unusable(file, 1, "is empty: `gitlab-reconciler init` writes one to start from")
    if not isinstance(root, yaml.MappingNode):
        raise _unusable(file, root.start_mark.line + 1, "should be a mapping, like `receiver: …`")
    return root


def _hinted(problem: str) -> str:
    return f"{problem}: {_HINTS[problem]}" if problem in _HINTS else problem


def _composed(file: Path, text: str) -> yaml.Node | None:
    with contextlib.suppress(yaml.YAMLError):  # the other parser reads it again: its errors say more
        _check_depth(file, text, _FAST)
        return yaml.compose(text, Loader=_FAST)
    _check_depth(file, text, yaml.SafeLoader)
    return yaml.compose(text, Loader=yaml.SafeLoader)


def _check_depth(file: Path, text: str, loader: Any) -> None:
    """Refuse deep nesting: composing it would recurse as deep."""
    depth = 0
    for event in yaml.parse(text, Loader=loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise _unusable(file, event.start_mark.line + 1 if event.start_mark else 1, "is nested too deeply")


def _unusable(file: Path, line: int, what: str) -> ConfigError:
    return ConfigError([Mistake(str(file), line, "", what)])


class Reader:
    """Turns YAML nodes into plain values, and notes the line of every key and every mistake."""

    def __init__(self, file: Path, environ: Mapping[str, str]) -> None:
        self.file = file
        self.environ = environ
        self.lines: dict[Path_, int] = {(): 1}
        self.mistakes: list[Mistake] = []
        self.secrets: dict[Path_, Path] = {}
        """The files of secrets, by their keys."""
        self._within: set[int] = set()

    def wrong(self, path: Path_, what: str) -> None:
        """Note a mistake."""
        self.mistakes.append(Mistake(str(self.file), self.line_of(path), spell(path), what))

    def line_of(self, path: Path_) -> int:
        """The line of a key, or of the nearest key around it that is in the file."""
        return self.lines[self.written(path)]

    def written(self, path: Path_) -> Path_:
        """The nearest key around a path that is in the file: short forms of a value have fewer keys."""
        while path not in self.lines:
            path = path[:-1]
        return path

    def values(self, root: yaml.MappingNode) -> dict[str, Any]:
        """All of a config's values."""
        return self._mapping(root, ())

    def _value(self, node: yaml.Node, path: Path_) -> Any:
        self.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        if id(node) in self._within:
            self.wrong(path, "contains itself (an alias, `*…`, inside the value it refers to)")
            return None
        self._within.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, path)
            items = [self._value(item, (*path, index)) for index, item in enumerate(node.value)]
            return [None if item is _NOT_THERE else item for item in items]
        finally:
            self._within.discard(id(node))

    def _mapping(self, node: yaml.MappingNode, path: Path_) -> dict[str, Any]:
        found: dict[str, Any] = {}
        first: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self.mistakes.append(Mistake(str(self.file), line, spell(path), "a key should be one word"))
                continue
            key = str(key_node.value)
            self.lines[*path, key] = line
            if key in first:
                self.wrong((*path, key), f"is given twice: also in line {first[key]}")
            first.setdefault(key, line)
            value = self._value(value_node, (*path, key))
            if value is not _NOT_THERE:
                found[key] = value
        for key in [k for k in found if k.endswith("_file") and k not in _FILES]:
            self._read_secret(found, key, path)
        return found

    def _scalar(self, node: yaml.ScalarNode, path: Path_) -> Any:
        if "$" in node.value:
            return self._fill(node.value, path) or _NOT_THERE
        try:
            return yaml.SafeLoader("").construct_object(node)
        except yaml.constructor.ConstructorError:
            self.wrong(path, f"unknown tag `{node.tag}`: remove it, or put the text in quotes")
        except (yaml.YAMLError, ValueError, OverflowError) as error:
            self.wrong(path, f"can't be read: {error}; if it is text, put it in quotes")
        return None

    def _fill(self, text: str, path: Path_) -> str:
        def replace(found: re.Match[str]) -> str:
            if found[0] == "$$":
                return "$"
            if odd := found["odd"]:
                self.wrong(path, f"{odd!r} names no environment variable: names have letters, digits and `_`, like "
                           "${NAME} or ${NAME:-default}; for a dollar sign, write `$$`")  # fmt: skip
                return "x"
            if bare := found["bare"]:
                self.wrong(path, f"write ${{{bare}}} for the environment variable; for a dollar sign, write `$$`")
                return "x"
            value = self.environ.get(found["name"]) or found["default"]
            if value is None:
                state = "is empty" if found["name"] in self.environ else "is not set"
                self.wrong(path, f"the environment variable {found['name']} {state} (and has no `:-default` here)")
                return "x"  # so that no other check reports the same mistake
            return value

        return _DOLLAR.sub(replace, text)

    def _read_secret(self, found: dict[str, Any], key: str, path: Path_) -> None:
        """Replace `token_file: path` by `token: <content of the file>`."""
        name, target = key.removesuffix("_file"), found.pop(key)
        if target is None:
            return
        if found.get(name) is not None:
            self.wrong((*path, key), f"give either `{name}` or `{key}`, not both")
            return
        secret = (self.file.parent / str(target)).expanduser()
        self.secrets[*path, key] = secret
        self.lines[*path, name] = self.lines[*path, key]
        try:
            text = secret.read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            self.wrong((*path, key), f"can't read {secret}: {reason}")
            found[name] = None
            return
        if not text:
            self.wrong((*path, key), f"{secret} is empty")
        found[name] = text or None
