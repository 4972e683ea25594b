"""How the command line is put together."""

from __future__ import annotations

import subprocess
import sys

import pytest

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
