"""The demo is a real run whose figures must agree."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from reconciler.location import PostgresUrl
from tests.support.ledgers import ledger_location
from tests.support.service import run


def test_its_ledger_is_named_without_showing_a_password(tmp_path: Path) -> None:
    secret = tmp_path / "url"
    secret.write_text("postgresql://me:sekret@127.0.0.1:1/events\n")
    for done in (
        run("demo", "--ledger", f"file:{secret}"),
        run("demo", "--ledger", "env:LEDGER_URL", LEDGER_URL=secret.read_text()),
    ):
        assert (done.returncode, done.stdout) == (1, "")
        assert "Connection refused" in done.stderr
        assert "sekret" not in done.stderr
    done = run("demo", "--ledger", "env:NOWHERE")
    assert done.returncode == 2
    assert "the environment variable NOWHERE is not set" in done.stderr


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
