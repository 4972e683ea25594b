"""A receiver that is stopped accepts webhooks until the load balancer has noticed, if it is told to."""

from __future__ import annotations

import signal

import httpx

from tests.conftest import MakeService
from tests.support.service import TOKEN, until


def test_not_ready_and_still_there(make_service: MakeService) -> None:
    receiver = {"port": 0, "hooks": [{"token": TOKEN}], "shutdown_delay": "1h"}
    service = make_service(receiver=receiver).start()
    assert service.process is not None
    service.process.send_signal(signal.SIGTERM)
    with httpx.Client() as client:
        until(lambda: client.get(f"{service.url}/readyz").status_code == 503)
        answer = service.post(b'{"object_kind": "push"}')
        assert answer.status_code == 200
        assert answer.headers["connection"] == "close"
        assert client.get(f"{service.url}/readyz").headers["connection"] == "close"
    assert service.stop() == 0  # a second signal: it does not wait for the rest
