"""A damaged ledger is repaired before the worker starts."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys

import pytest

from reconciler.service.repairing import while_asking_for_time
from reconciler.service.role import Role


def test_what_a_repair_raises_is_raised() -> None:
    def repair() -> None:
        raise LookupError("nothing there")

    with pytest.raises(LookupError, match="nothing there"):
        asyncio.run(while_asking_for_time(Role("worker"), repair))


REPAIR = """
import asyncio, sys
from reconciler.service.repairing import while_asking_for_time
from reconciler.service.role import Role

def repair():
    print("repairing", flush=True)
    sys.stdin.read()

asyncio.run(while_asking_for_time(Role("worker"), repair))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_repair_can_be_stopped(number: signal.Signals) -> None:
    command = [sys.executable, "-c", REPAIR]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "repairing\n"
        process.send_signal(number)
        assert "the next start begins again" in process.stdout.read()
        assert process.wait(30) == 0
