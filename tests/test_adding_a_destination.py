"""Adding a kind of destination: a file in forwarding/kinds/, and what belongs to it elsewhere: named if missing."""

from __future__ import annotations

import json
import re
import tomllib
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from reconciler.config.destination_kinds import BUILT_IN, GROUP, find_kind
from reconciler.forwarding.kind import Connected

ROOT = Path(__file__).parents[1]
WITHOUT_A_BROKER = ("file", "http", "pull", "stdout")
PAGES_WITH_A_LIST = ("README.md", "docs/index.md", "docs/comparison.md")
"""Pages that may list the kinds in a sentence. One that names two brokers has to name them all."""


def _text(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


PROJECT: dict[str, Any] = tomllib.loads(_text("pyproject.toml"))["project"]


def missing(kind: str) -> list[str]:
    """What a file in forwarding/kinds/ still needs, as `file: what`."""
    found = []
    if kind not in PROJECT["entry-points"][GROUP]:
        found.append(f"pyproject.toml: no entry point {kind} in {GROUP}")
    elif kind not in {point.name for point in entry_points(group=GROUP)}:
        found.append("pyproject.toml: its entry points are not installed yet; `make test` installs them")
    if not re.search(rf"^# +(- )?kind: {kind}\b", _text("config.yaml"), re.M):
        found.append(f"config.yaml: no example with `kind: {kind}`")
    if kind not in _kinds_of_schema():
        found.append(f"docs/config.schema.json: does not know {kind}; run `make schema`")
    if not (ROOT / "docs" / "destinations" / f"{kind}.md").exists():
        found.append(f"docs/destinations/{kind}.md: is not there")
    elif 'title="run.sh"' not in _text(f"docs/destinations/{kind}.md"):
        found.append(f"docs/destinations/{kind}.md: has no example with a run.sh")
    if f"({kind}.md)" not in _text("docs/destinations/README.md"):
        found.append(f"docs/destinations/README.md: its table has no link to {kind}.md")
    title = _title(kind)
    if title is None:
        found.append(f"mkdocs.yml: destinations/{kind}.md is not in the navigation")
    tests = [file.read_text(encoding="utf-8") for file in (ROOT / "tests/reconciler/forwarding").glob("test_*.py")]
    if not any(re.search(rf'made\("{kind}"|kinds\.{kind} import|"kind": "{kind}"', text) for text in tests):
        found.append(f"tests/reconciler/forwarding/: no test of {kind}")
    return found + (_missing_of_a_broker(kind, title or kind) if kind not in WITHOUT_A_BROKER else [])


def _missing_of_a_broker(kind: str, title: str) -> list[str]:
    """What a kind needs that connects to a server by a client library of its own."""
    found = []
    extras = PROJECT["optional-dependencies"]
    if kind not in extras:
        found.append(f"pyproject.toml: no extra {kind} that installs its client library")
    for package in (re.split(r"[<>=;\[ ]", one)[0] for one in extras.get(kind, [])):
        if not any(re.match(rf"{re.escape(package)}\b", one) for one in extras["dev"]):
            found.append(f"pyproject.toml: {package} is not in the extra dev")
        if not re.search(rf"^{re.escape(package)}==", _text("constraints.txt"), re.M | re.I):
            found.append(f"constraints.txt: {package} is not pinned")
    for path, pattern in (
        ("packaging/Dockerfile", r"EXTRAS=(\S+)"),
        ("docs/installing.md", r"pip install '\.\[([^]]+)\]'"),
    ):
        if kind not in ",".join(re.findall(pattern, _text(path))).split(","):
            found.append(f"{path}: its list of extras lacks {kind}")
    if f'"kind": "{kind}"' not in _text("tests/reconciler/forwarding/test_reach.py"):
        found.append(f"tests/reconciler/forwarding/test_reach.py: its list of kinds with a port lacks {kind}")
    for path in PAGES_WITH_A_LIST:
        text = _text(path).lower()
        others = [other for other in BROKERS if other != kind and (_title(other) or other).lower() in text]
        if len(others) > 1 and title.lower() not in text:
            found.append(f"{path}: lists the brokers without {title}")
    return found


def _kinds_of_schema() -> set[str]:
    models = json.loads(_text("docs/config.schema.json"))["$defs"].values()
    return {model.get("properties", {}).get("kind", {}).get("const") for model in models}


def _title(kind: str) -> str | None:
    """What the navigation calls a kind."""
    found = re.search(rf"^ *- (.+): destinations/{kind}\.md$", _text("mkdocs.yml"), re.M)
    return found[1] if found else None


BROKERS = [kind for kind in BUILT_IN if kind not in WITHOUT_A_BROKER]


@pytest.mark.parametrize("kind", BUILT_IN)
def test_nothing_is_missing(kind: str) -> None:
    assert missing(kind) == []


def test_each_file_is_named_for_a_kind_that_has_only_its_own() -> None:
    named = missing("invented")
    assert [message.partition(":")[0] for message in named] == [
        "pyproject.toml",
        "config.yaml",
        "docs/config.schema.json",
        "docs/destinations/invented.md",
        "docs/destinations/README.md",
        "mkdocs.yml",
        "tests/reconciler/forwarding/",
        "pyproject.toml",
        "packaging/Dockerfile",
        "docs/installing.md",
        "tests/reconciler/forwarding/test_reach.py",
        *(page for page in PAGES_WITH_A_LIST if _lists_brokers(page)),
    ]


def _lists_brokers(page: str) -> bool:
    return sum((_title(kind) or kind).lower() in _text(page).lower() for kind in BROKERS) > 1


def test_every_entry_point_has_its_file() -> None:
    assert PROJECT["entry-points"][GROUP].keys() == set(BUILT_IN)
    for name, target in PROJECT["entry-points"][GROUP].items():
        assert target.startswith(f"reconciler.forwarding.kinds.{name}:")


@pytest.mark.parametrize("kind", BROKERS)
def test_a_broker_s_extra_is_the_one_that_its_error_names(kind: str) -> None:
    assert issubclass(find_kind(kind), Connected)
    assert find_kind(kind).requires[1] == kind
