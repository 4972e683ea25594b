"""docs/architecture.md compared with the code: which package may import which, and what is allowed where."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted([*(ROOT / "reconciler").rglob("*.py"), *(ROOT / "receiver").rglob("*.py")])

# Each room, and the rooms it may import from.
MAY_IMPORT = {
    "location": set(),
    "events": set(),
    "ledger": {"location", "events"},
    "config": {"location", "events"},
    "receiver": {"events", "ledger", "config"},
    "reconstruct": {"events"},
    "sources": {"events", "config", "reconstruct"},
    "forwarding": {"events", "ledger", "config", "supervisor"},
    "recorder": {"events", "ledger"},
    "polling": {"location", "events", "ledger", "config", "sources"},
    "api": {"location", "events", "ledger", "config", "forwarding", "polling"},
    "dashboard": {"location", "events", "ledger", "config", "forwarding", "polling", "api"},
    "service": {
        "location",
        "events",
        "ledger",
        "config",
        "receiver",
        "recorder",
        "sources",
        "forwarding",
        "polling",
        "dashboard",
        "metrics",
        "supervisor",
        "tracing",
    },
    "supervisor": {"events", "ledger"},
    "tracing": {"ledger"},
    "metrics": {"location", "events", "ledger", "config", "sources", "polling"},
    "logs": {"events"},
    "simulator": set(),
    "demo": {"location", "ledger", "simulator"},
    "cli": {"location", "events", "ledger", "config", "sources", "polling", "forwarding", "service", "demo", "logs"},
}
ONLY_IN = {
    r"\b(SELECT|INSERT INTO|UPDATE \w+ SET|DELETE FROM|PRAGMA)\b": ("ledger",),
    r"^\s*(import|from) (gitlab|requests)\b": ("sources",),
    r"^\s*(import|from) (httpx|aiohttp)\b": ("forwarding", "simulator"),
    r"^\s*(import|from) (nats|redis|aiokafka|aio_pika|paho|sqlalchemy|pymysql)\b": ("forwarding",),
    r"^\s*(import|from) (fastapi|fastapi_swagger)\b": ("api",),
    # Elsewhere a `Decoder` is made when its module is imported: only one thread may use a type for the first time.
    r"\bmsgspec\.(convert|json\.decode|msgpack\.decode)\b": ("sources",),
}

EAGER = ("mount.py", "problems.py", "stream.py")
"""The files of the API that are imported with the dashboard."""


def room(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return "receiver" if parts[0] == "receiver" else parts[1]


def imported(file: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(file.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] if node.module != "reconciler" else [f"reconciler.{a.name}" for a in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "receiver":
                rooms.add("receiver")
            elif parts[0] == "reconciler" and len(parts) > 1 and not parts[1].startswith("__"):
                rooms.add(parts[1])
    return rooms


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_imports_point_one_way(file: Path) -> None:
    own = room(file)
    if own not in ("__init__", "__main__"):
        assert imported(file) - {own} <= MAY_IMPORT[own]


@pytest.mark.parametrize("pattern", ONLY_IN)
def test_what_belongs_to_one_room(pattern: str) -> None:
    elsewhere = {
        str(file.relative_to(ROOT))
        for file in FILES
        if re.search(pattern, _without_docstrings(file), re.M) and room(file) not in ONLY_IN[pattern]
    }
    assert elsewhere == set()


def test_the_api_is_imported_when_it_is_first_asked() -> None:
    """FastAPI takes a second and much memory, in every process that imports it."""
    for file in [one for one in FILES if room(one) != "api"] + [ROOT / "reconciler/api" / f for f in EAGER]:
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.ImportFrom) and node.module:
                allowed = {f"reconciler.api.{Path(name).stem}" for name in EAGER}
                assert not node.module.startswith(("reconciler.api", "fastapi")) or node.module in allowed, file


def test_no_process_imports_pandas() -> None:
    """sqlite-utils would, if it is installed. It begins threads, which signals then go to."""
    code = """if True:
        import os, sys, reconciler.service.worker
        print(len(os.listdir("/proc/self/task")), "pandas" in sys.modules)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1 False\n"


def _without_docstrings(file: Path) -> str:
    return re.sub(r'^\s*"""(?:(?!""").)*"""', "", file.read_text(), flags=re.S | re.M)


@pytest.mark.parametrize(
    "file", [one for one in FILES if room(one) != "ledger"], ids=lambda f: str(f.relative_to(ROOT))
)
def test_only_the_ledger_composes_transactions(file: Path) -> None:
    """Others call its named operations: they write no functions of its connection, and begin no transactions."""
    found = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Lambda) and "db" in [one.arg for one in node.args.args]:
            found.append(f"line {node.lineno}: a lambda that takes the ledger's connection")
        elif isinstance(node, ast.Attribute) and node.attr == "run" and "writer" in ast.unparse(node.value):
            found.append(f"line {node.lineno}: the ledger's writer runs a change")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("reconciler.ledger"):
            names = [alias.name for alias in node.names]
            found += [f"line {node.lineno}: imports `transaction`"] if "transaction" in names else []
    assert found == []


FACES = ("ledger.py", "alerts.py", "coverage/operations.py", "queue/operations.py", "recording/operations.py")


@pytest.mark.parametrize("file", FACES)
def test_the_ledger_s_operations_could_be_another_store_s(file: str) -> None:
    """No operation takes or returns a connection, or anything else of SQLite's."""
    tree = ast.parse((ROOT / "reconciler" / "ledger" / file).read_text())
    faces = [
        node for node in tree.body if isinstance(node, ast.ClassDef) and node.name.endswith(("Ledger", "Operations"))
    ]
    assert faces
    for face in faces:
        for method in face.body:
            if isinstance(method, (ast.FunctionDef, ast.AsyncFunctionDef)) and not method.name.startswith("_"):
                signature = ast.unparse(method.args) + ast.unparse(method.returns or ast.Constant(None))
                assert not re.search("Database|sqlite|Connection|Writer", signature), f"{face.name}.{method.name}"


def test_files_fit_in_a_head() -> None:
    assert [str(f.relative_to(ROOT)) for f in FILES if len(f.read_text().splitlines()) > 400] == []


def test_the_map_names_every_room() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    rooms = {path.name for path in (ROOT / "reconciler").iterdir() if path.is_dir() and path.name != "__pycache__"}
    rooms |= {path.name for path in (ROOT / "reconciler").glob("*.py") if not path.name.startswith("__")}
    assert {name for name in rooms if name not in text} == set()


def test_the_map_names_files_that_exist() -> None:
    text = "".join((ROOT / "docs" / page).read_text() for page in ("architecture.md", "code-map.md"))
    named = set(re.findall(r"`([\w/]+/[\w/]*(?:\.\w+)?)`", text))
    folders = (ROOT, ROOT / "reconciler", ROOT / "reconciler" / "ledger")
    assert len(named) > 40
    assert {name for name in named if not any((folder / name).exists() for folder in folders)} == set()


def test_the_map_answers_each_question_with_two_files_at_most() -> None:
    text = (ROOT / "docs" / "code-map.md").read_text()
    answers = re.findall(r"^\| W[^|]+\?(.*)$", text, re.M)
    assert len(answers) >= 16
    assert {len(re.findall(r"`[\w/]+\.py`", answer)) for answer in answers} <= {1, 2}
