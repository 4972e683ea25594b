"""How the command line is put together."""

from __future__ import annotations

import subprocess
import sys

import pytest

from reconciler.cli.app import COMMANDS, RENAMED, command_line
from reconciler.cli.failing import ending

HEAVY = ("uvicorn", "gitlab", "httpx", "apscheduler", "prometheus_client", "reconciler.simulator")


@pytest.mark.parametrize("command", ["events", "init", "schema", "replay"])
def test_a_command_imports_what_it_needs(command: str) -> None:
    code = (
        f"import sys; from reconciler.cli.app import command_line; command_line([{command!r}]); print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {*HEAVY} & {*loaded} == set()


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
@pytest.mark.parametrize("more", [[], ["list"], ["show", "1", "--json"]], ids=" ".join)
def test_an_old_command_is_refused_with_its_new_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], old: str, new: str, more: list[str]
) -> None:
    assert new in COMMANDS
    assert old not in COMMANDS
    monkeypatch.setattr(sys, "argv", ["gitlab-reconciler", old, *more])
    code = ending(command_line(), prog_name="gitlab-reconciler")
    said = capsys.readouterr().err
    assert (code, f"`{old}` is now called `{new}`" in said) == (2, True), said
