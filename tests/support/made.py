"""Blocks of docs that tests make: held against the file, or written where UPDATE_DOCS is set."""

from __future__ import annotations

import os
import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
_BLOCK = re.compile(r"(<!-- made .*? -->\n)(.*?)(<!-- /made -->)", re.S)


def check_made(name: str, lines: list[str]) -> None:
    """The block of a page is these lines."""
    file = DOCS / name
    text, block = file.read_text(encoding="utf-8"), "\n".join(lines) + "\n"
    found = _BLOCK.search(text)
    assert found is not None, f"{name} has no block that is made"
    if os.environ.get("UPDATE_DOCS"):
        file.write_text(text[: found.start(2)] + block + text[found.end(2) :], encoding="utf-8")
    else:
        assert found[2] == block, f"docs/{name} is not today's: run `make docs`"
