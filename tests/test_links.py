"""The check of links that `make lint` runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.links import ROOT, broken, pages


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_no_link_is_broken(page: Path) -> None:
    assert broken(page) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[a](other.md)", []),
        ("[a](other.md#two-words)", []),
        ("[a](#own)\n\n## Own", []),
        ("`[a](nowhere.md)`", []),
        ("`` `[a](nowhere.md)` ``", []),
        ("```\n[a](nowhere.md)\n```", []),
        ("[a](https://example.com/nowhere)", []),
        ("[a](nowhere.md)", ["page.md: nowhere.md: no such file"]),
        ("![a](nowhere.png)", ["page.md: nowhere.png: no such file"]),
        ("[a]: nowhere.md", ["page.md: nowhere.md: no such file"]),
        ('<img src="nowhere.png">', ["page.md: nowhere.png: no such file"]),
        ("[a](other.md#three)", ["page.md: other.md#three: no heading has this anchor"]),
        ("[a](#other)", ["page.md: #other: no heading has this anchor"]),
        ("[a](../outside.md)", ["page.md: ../outside.md: no such file"]),
    ],
)
def test_what_is_broken_is_named(tmp_path: Path, text: str, expected: list[str]) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "outside.md").touch()
    (root / "other.md").write_text("# Other\n\n## Two *words*!\n\n```\n# three\n```\n")
    (root / "page.md").write_text(text)
    assert broken(root / "page.md", root) == expected
