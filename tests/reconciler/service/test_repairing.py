"""What is answered while a damaged ledger is repaired, before the service itself is there."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys

import httpx
import pytest
from pydantic import SecretStr

from reconciler.config.models import HookConfig, Receiver
from reconciler.service.repairing import while_answering
from tests.reconciler.dashboard.test_app import free_port
from tests.support.service import until


def test_the_port_answers_while_a_repair_goes_on() -> None:
    where = receiver()
    url = f"http://127.0.0.1:{where.port}"

    def repair() -> str:
        until(lambda: is_alive(url))
        refused = httpx.post(f"{url}/webhooks/gitlab", content=b"{}")
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "30")
        assert httpx.get(f"{url}/readyz").status_code == 503
        return "done"

    assert asyncio.run(while_answering(where, repair)) == "done"
    assert not is_alive(url)


def test_what_a_repair_raises_is_raised() -> None:
    def repair() -> None:
        raise LookupError("nothing there")

    with pytest.raises(LookupError, match="nothing there"):
        asyncio.run(while_answering(receiver(), repair))


REPAIR = """
import asyncio, sys
from reconciler.config.models import Receiver
from reconciler.service.repairing import while_answering

def repair():
    print("repairing", flush=True)
    sys.stdin.read()

asyncio.run(while_answering(Receiver.model_validate_json(sys.argv[1]), repair))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_repair_can_be_stopped(number: signal.Signals) -> None:
    where = json.dumps({"port": free_port(), "hooks": [{"token": "not-asked-for-here-123456"}]})
    command = [sys.executable, "-c", REPAIR, where]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "repairing\n"
        process.send_signal(number)
        assert "the next start begins again" in process.stdout.read()
        assert process.wait(30) == 0


def receiver() -> Receiver:
    return Receiver(
        host="127.0.0.1", port=free_port(), hooks=[HookConfig(token=SecretStr("not-asked-for-here-123456"))]
    )


def is_alive(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz").status_code == 200
    except httpx.TransportError:
        return False
