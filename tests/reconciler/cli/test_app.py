"""How the command line is put together."""

from __future__ import annotations

import subprocess
import sys

import pytest

from reconciler.cli.app import COMMANDS, RENAMED, command_line
from reconciler.cli.failing import ending

HEAVY = ("uvicorn", "gitlab", "httpx", "apscheduler", "prometheus_client", "reconciler.simulator")


def loaded_by(code: str) -> set[str]:
    """The modules that are imported once this has run."""
    whole = f"import sys; {code}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", whole], capture_output=True, text=True, check=True)
    return {*done.stdout.split()}


def test_the_version_needs_no_config() -> None:
    loaded = loaded_by("from reconciler.cli.app import command_line; command_line(())")
    assert {"pydantic", "jinja2", *HEAVY} & loaded == set()


@pytest.mark.parametrize("command", ["events", "init", "schema", "replay"])
def test_a_command_imports_what_it_needs(command: str) -> None:
    assert {*HEAVY} & loaded_by(f"from reconciler.cli.app import command_line; command_line([{command!r}])") == set()


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
