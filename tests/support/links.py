"""Checks the links in the project's Markdown files. Run by `make lint`; it needs no network.

Relative links have to lead to a file or folder of the project, and anchors to a heading of the page. Links to other
sites are not checked: they fail for reasons that have nothing to do with a change.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).parents[2]
PAGES = ("*.md", "docs/**/*.md", "tests/**/README.md", ".gitlab/**/*.md")

_FENCE = re.compile(r"^ *(```|~~~).*?^ *\1 *$", re.M | re.S)
_SPAN = re.compile(r"(?<!`)(`+)(?!`).+?(?<!`)\1(?!`)")
_COMMENT = re.compile(r"<!--.*?-->", re.S)
_LINK = re.compile(
    r"(?<!\\)\]\(\s*<?([^)>\s]*)>?(?:\s+\"[^\"]*\")?\s*\)|^ *\[[^\]]+\]:\s*(\S+)|(?:href|src)=\"([^\"]*)\"", re.M
)
_HEADING = re.compile(r"^#{1,6}\s+(.*?)\s*#*$", re.M)
_OWN_ANCHOR = re.compile(r"<a (?:name|id)=\"([^\"]+)\"|\{#([\w-]+)\}")


def pages(root: Path = ROOT) -> list[Path]:
    """The Markdown files that are checked."""
    return sorted({page for pattern in PAGES for page in root.glob(pattern)})


def broken(page: Path, root: Path = ROOT) -> list[str]:
    """What is wrong with a page's links, one message each."""
    found = []
    text = _SPAN.sub("", _FENCE.sub("", _COMMENT.sub("", page.read_text(encoding="utf-8"))))
    for match in _LINK.finditer(text):
        target = next(group for group in match.groups() if group is not None)
        if re.match(r"[a-z][a-z0-9+.-]*:|//", target):
            continue
        path, _, anchor = unquote(target).partition("#")
        file = (page.parent / path).resolve() if path else page
        where = f"{page.relative_to(root)}: {target}"
        if not file.is_relative_to(root) or not file.exists():
            found.append(f"{where}: no such file")
        elif anchor and file.suffix == ".md" and anchor not in anchors(file):
            found.append(f"{where}: no heading has this anchor")
    return found


def anchors(page: Path) -> set[str]:
    """The anchors of a page, as the documentation site and GitLab write them."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    found = {one or other for one, other in _OWN_ANCHOR.findall(text)}
    for heading in _HEADING.findall(text):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        base = name = re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", words).strip().lower())
        number = 0
        while name in found:
            number += 1
            name = f"{base}_{number}"
        found.add(name)
    return found


def main() -> int:
    """Print what is broken. Returns the exit code."""
    messages = [message for page in pages() for message in broken(page)]
    print("\n".join(messages) if messages else f"{len(pages())} pages: no broken link")
    return 1 if messages else 0


if __name__ == "__main__":
    sys.exit(main())
