"""A package of somebody else's whose kinds of destination fail in every way in which they can."""

from __future__ import annotations

from pathlib import Path

_MODULE = """
import os, sys
from typing import Literal
from pydantic import field_validator
from reconciler.config.destinations import Destination
from reconciler.forwarding.kind import Kind
from reconciler.forwarding.message import ACCEPTED

def kind_of(name, **more):
    class Config(Destination):
        kind: Literal[name] = name
    class Broken(Kind):
        config = Config
        def __init__(self, destination): pass
        @property
        def address(self): return "nowhere"
        async def send(self, message): return ACCEPTED
    for key, value in more.items():
        setattr(Broken, key, value)
    return Broken

def boom(*_):
    raise RuntimeError("boom")

def leave(*_):
    sys.exit("I am the program")

def needs_a_key(cls):
    raise KeyError("API_KEY")

class Config(Destination):
    kind: Literal["broken-config"] = "broken-config"
    @field_validator("name")
    @classmethod
    def check(cls, value):
        raise RuntimeError("boom")

sound = kind_of("sound")
constructor = kind_of("broken-constructor", __init__=boom)
exiting = kind_of("exiting-constructor", __init__=leave)
available = kind_of("broken-available", available=classmethod(needs_a_key))
address = kind_of("broken-address", address=property(boom))
config = kind_of("broken-config", config=Config)
close = kind_of("broken-close", close=boom)
no_kind = 7
"""

BROKEN = {
    "broken-import": "it can't be loaded: RuntimeError: boom",
    "exiting-import": "it can't be loaded: SystemExit: no licence",
    "missing-import": "it can't be loaded: ModuleNotFoundError",
    "broken-constructor": "it can't be built: RuntimeError: boom",
    "exiting-constructor": "it can't be built: SystemExit: I am the program",
    "broken-available": "its config can't be checked: KeyError: 'API_KEY'",
    "broken-address": "it can't be built: RuntimeError: boom",
    "broken-config": "its config can't be checked: RuntimeError: boom",
    "no-kind": "its config can't be checked: AttributeError",
}
"""Each kind that fails, and what is said of it."""

_POINTS = """[gitlab_reconciler.destinations]
sound = broken_kinds:sound
broken-close = broken_kinds:close
broken-import = broken_kinds_import:Kind
exiting-import = broken_kinds_exit:Kind
missing-import = broken_kinds_nowhere:Kind
broken-constructor = broken_kinds:constructor
exiting-constructor = broken_kinds:exiting
broken-available = broken_kinds:available
broken-address = broken_kinds:address
broken-config = broken_kinds:config
no-kind = broken_kinds:no_kind
"""


def install(folder: Path) -> None:
    """Lay the package out in a folder, which is then to be on PYTHONPATH."""
    (folder / "broken_kinds.py").write_text(_MODULE)
    (folder / "broken_kinds_import.py").write_text("raise RuntimeError('boom')\n")
    (folder / "broken_kinds_exit.py").write_text("import sys\nsys.exit('no licence')\n")
    about = folder / "broken_kinds-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-kinds\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(_POINTS)
