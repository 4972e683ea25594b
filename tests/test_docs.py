"""The parts of docs/ that are made from the code are today's. `make docs` writes them anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from reconciler.config.destinations import Destination
from reconciler.config.kinds import BUILT_IN, find_kind
from reconciler.sources.source import FOREVER
from reconciler.sources.table import SOURCES
from tests.support.made import check_made

DAYS = {7: "7 days", 3 * 365: "3 years"}


def test_recovery_shows_the_table_of_sources() -> None:
    rows = ["| source | asks | kept by GitLab | can rebuild | can't |", "|---|---|---|---|---|"]
    for entry in SOURCES:
        kept = "until deleted" if entry.keeps_for == FOREVER else DAYS[entry.keeps_for // 86_400_000]
        rows.append(f"| `{entry.name}` | {entry.asks} | {kept} | {entry.rebuilds} | {entry.loses} |")
    check_made("recovery.md", rows)


PLUGIN = Path(__file__).parent / "example_plugin"


def keys(model: type[BaseModel], *, but: set[str] = frozenset(), before: str = "") -> list[str]:  # type: ignore[assignment]
    """A row for each key of a section, and of the sections in it."""
    rows = []
    for name, field in model.model_fields.items():
        if name in but:
            continue
        inner = section(field.annotation)
        if inner is not None and name != "tls":
            rows += keys(inner, before=f"{before}{name}.")
            continue
        default = (
            "" if field.is_required() or field.default is None or field.default_factory else shown(field.default)
        )
        what = (field.description or "").replace("|", "\\|")
        rows.append(f"| `{before}{name}` | {default} | {what}{' Required.' if field.is_required() else ''} |")
        if name == "tls":
            rows += keys(find_kind("http").config.model_fields["tls"].annotation.__args__[0], before="tls.")
    return rows


def section(annotation: Any) -> type[BaseModel] | None:
    """The section that a key holds, if it holds one."""
    for one in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(one, type) and issubclass(one, BaseModel):
            return one
    return None


def shown(default: Any) -> str:
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{default}`" if default != "" else ""


TABLE = ["| key | default | what |", "|---|---|---|"]


def test_destinations_show_the_keys_of_all_kinds() -> None:
    check_made("destinations/README.md", TABLE + keys(Destination))


@pytest.mark.parametrize("kind", sorted(set(BUILT_IN) - {"stdout"}))
def test_each_kind_s_page_shows_its_keys(kind: str) -> None:
    common = set(Destination.model_fields) - ({"format"} if kind == "file" else set())
    check_made(f"destinations/{kind}.md", TABLE + keys(find_kind(kind).config, but=common | {"kind"}))


def test_the_example_of_an_own_kind_is_the_tested_one() -> None:
    lines = []
    for name, language in (("pyproject.toml", "toml"), ("example_destination/__init__.py", "python")):
        text = (PLUGIN / name).read_text(encoding="utf-8").rstrip()
        lines += [f'```{language} title="{name}"', *text.splitlines(), "```", ""]
    check_made("destinations/your-own.md", lines[:-1])
