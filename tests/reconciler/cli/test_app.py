"""How the command line is put together."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("uvicorn", "gitlab", "httpx", "apscheduler", "prometheus_client", "reconciler.simulator")


@pytest.mark.parametrize("command", ["events", "init", "schema", "replay"])
def test_a_command_imports_what_it_needs(command: str) -> None:
    code = (
        f"import sys; from reconciler.cli.app import command_line; command_line([{command!r}]); print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {*HEAVY} & {*loaded} == set()
