"""The demo is a real run whose figures must agree."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest

from reconciler.location import PostgresUrl
from tests.support.ledgers import ledger_location
from tests.support.service import run, until
from tests.support.terminal import Conversation


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


def until_interrupted() -> tuple[int, str]:
    """The demo with `--keep`: what it printed, after a look at its dashboard."""
    with Conversation("demo", "--keep") as demo:
        until(lambda: "Ctrl-C ends the demo" in demo.logged, 90)
        [url] = re.findall(r"The dashboard: (http://\S+)", demo.logged)
        page = httpx.get(url)
        demo.interrupt()
        code = demo.wait()
        assert (page.status_code, "acme/website" in page.text) == (200, True)
        with pytest.raises(httpx.ConnectError):
            httpx.get(url)
    return code, demo.logged.replace("\r", "")


@pytest.mark.long
def test_demo(engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends by itself with PostgreSQL here, and keeps the dashboard until Ctrl-C with SQLite."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with ledger_location(engine, tmp_path) as location:
        if isinstance(location, PostgresUrl):
            done = run("demo", "--ledger", location.value)
            code, said = done.returncode, done.stdout
        else:
            code, said = until_interrupted()
    assert code == 0, said
    assert list(tmp_path.glob("gitlab-reconciler-demo-*")) == []
    figures = {name.strip(): int(number) for name, number in re.findall(r"^([^\d\n]+?)\s+(\d+)\s*$", said, re.M)}
    assert figures["happened in GitLab"] == figures["delivered"] > 100
    assert figures["recorded by webhook"] + figures["recovered by API"] == figures["delivered"]
    assert figures["lost"] == 0
    assert figures["recovered by API"] > 10
    assert figures["duplicates removed"] > 0
