"""The demo is a real run whose figures must agree."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from reconciler.location import PostgresUrl
from tests.support.ledgers import ledger_location
from tests.support.service import run


@pytest.mark.long
def test_demo(engine: str, tmp_path: Path) -> None:
    with ledger_location(engine, tmp_path) as location:
        done = run("demo", *(["--ledger", location.value] if isinstance(location, PostgresUrl) else []))
    assert done.returncode == 0, done.stdout + done.stderr
    figures = {
        name.strip(): int(number) for name, number in re.findall(r"^([^\d\n]+?)\s+(\d+)\s*$", done.stdout, re.M)
    }
    assert figures["happened in GitLab"] == figures["delivered"] > 100
    assert figures["recorded by webhook"] + figures["recovered by API"] == figures["delivered"]
    assert figures["lost"] == 0
    assert figures["recovered by API"] > 10
    assert figures["duplicates removed"] > 0
