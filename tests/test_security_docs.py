"""docs/security.md names a test for each of its promises, and each is there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
NAMED = re.findall(r"^(.+): (tests/\S+\.py)::(\w+)$", TEXT, re.M)


@cache
def names_in(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize(("promise", "file", "test"), NAMED)
def test_it_is_there(promise: str, file: str, test: str) -> None:
    assert test.startswith("test_")
    assert test in names_in(file), promise


def test_every_line_of_the_list_names_one() -> None:
    listed = TEXT[TEXT.index("<!--") :].splitlines()[1:-1]
    assert len(listed) == len(NAMED) > 40
