"""Webhooks as GitLab sends them: once, without retry, and less and less when they fail (gitlab-facts, section 1)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
import json
import queue
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from reconciler.simulator.world import Happening

FAILURES_BEFORE_OFF = 4
FIRST_PAUSE_S = 60.0
LONGEST_PAUSE_S = 86_400.0
FAILURES_BEFORE_OFF_FOR_GOOD = 40


@dataclass
class HookFaults:
    """What goes wrong between GitLab and the receiver. Each number says how many of the next ones."""

    drop: int = 0
    double: int = 0
    delay_s: float = 0.0


@dataclass
class Hook:
    """One webhook in a project's settings."""

    id: int
    project_id: int
    url: str
    token: str = ""
    signing_token: str = ""
    idempotency_key: bool = True
    event_uuid: str | None = None
    faults: HookFaults = field(default_factory=HookFaults)
    first_pause_s: float = FIRST_PAUSE_S
    failures: int = 0
    disabled_until: float = 0.0
    sent: int = 0
    accepted: int = 0
    log: list[dict[str, Any]] = field(default_factory=list)

    @property
    def alert_status(self) -> str:
        if self.failures >= FAILURES_BEFORE_OFF_FOR_GOOD:
            return "disabled"
        return "temporarily_disabled" if time.time() < self.disabled_until else "executable"

    def note(self, *, success: bool) -> None:
        """Count an outcome the way GitLab does."""
        if success:
            self.failures, self.disabled_until = 0, 0.0
            return
        self.failures += 1
        if self.failures >= FAILURES_BEFORE_OFF:
            pause = self.first_pause_s * 2 ** (self.failures - FAILURES_BEFORE_OFF)
            self.disabled_until = time.time() + min(pause, LONGEST_PAUSE_S)


def webhook_bytes(body: Mapping[str, Any] | None) -> bytes:
    """A webhook's body as it goes over the wire: the same bytes from every hook."""
    return json.dumps(body, separators=(",", ":")).encode()


class Courier:
    """Delivers webhooks from a thread of its own, in the order they were caused."""

    def __init__(self, timeout_s: float = 10.0) -> None:
        self.hooks: dict[int, Hook] = {}
        self._log_ids = itertools.count(1)
        self._work: queue.Queue[tuple[Hook, Happening] | None] = queue.Queue()
        self._client = httpx.Client(timeout=timeout_s, follow_redirects=False)
        self._thread = threading.Thread(target=self._run, name="courier", daemon=True)
        self._thread.start()

    def tell(self, happening: Happening) -> None:
        """Something happened: queue it for every hook of its project."""
        if happening.webhook is not None:
            for hook in self.hooks.values():
                if hook.project_id == happening.project_id:
                    self._work.put((hook, happening))

    def settle(self) -> None:
        """Wait until everything queued has been sent, dropped or has failed."""
        self._work.join()

    def close(self) -> None:
        self._work.put(None)
        self._thread.join(timeout=30)
        self._client.close()

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            try:
                self._handle(*work)
            finally:
                self._work.task_done()
        self._work.task_done()

    def _handle(self, hook: Hook, happening: Happening) -> None:
        if hook.alert_status != "executable":
            return  # sent to no one and logged nowhere
        if hook.faults.drop > 0:
            hook.faults.drop -= 1
            return
        times = 2 if hook.faults.double > 0 else 1
        hook.faults.double = max(0, hook.faults.double - 1)
        body = webhook_bytes(happening.webhook)
        for _ in range(times):  # a doubled delivery has another key and the same bytes
            if hook.faults.delay_s:
                time.sleep(hook.faults.delay_s)
            self.post(hook, happening.hook_event or "", body)

    def post(self, hook: Hook, hook_event: str, body: bytes) -> bool:
        """Deliver one body once; says whether GitLab takes it for a success."""
        headers = self._headers(hook, hook_event, body)
        hook.sent += 1
        try:
            response = self._client.post(hook.url, content=body, headers=headers)
            status, ok = str(response.status_code), response.status_code < 400  # a 3xx is success to GitLab
        except httpx.HTTPError:
            status, ok = "internal error", False
        hook.accepted += ok
        hook.note(success=ok)
        hook.log.append(
            {
                "id": next(self._log_ids),
                "url": hook.url,
                "trigger": hook_event.lower().replace(" ", "_") + "s",
                "request_headers": {k: "[REDACTED]" if k == "X-Gitlab-Token" else v for k, v in headers.items()},
                "request_data": json.loads(body),
                "response_headers": {},
                "response_body": "",
                "execution_duration": 0.01,
                "response_status": status,
            }
        )
        return ok

    @staticmethod
    def _headers(hook: Hook, hook_event: str, body: bytes) -> dict[str, str]:
        delivery = str(uuid.uuid4())
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "GitLab/18.0.0",
            "X-Gitlab-Event": hook_event,
            "X-Gitlab-Event-UUID": hook.event_uuid or str(uuid.uuid4()),
            "X-Gitlab-Webhook-UUID": str(uuid.uuid4()),
            "X-Gitlab-Instance": "https://gitlab.example.com",
        }
        if hook.idempotency_key:
            headers["Idempotency-Key"] = delivery
        if hook.token:
            headers["X-Gitlab-Token"] = hook.token
        if hook.signing_token:
            key = base64.b64decode(hook.signing_token.removeprefix("whsec_"))
            stamp = str(int(time.time()))
            digest = hmac.new(key, f"{delivery}.{stamp}.".encode() + body, hashlib.sha256).digest()
            signature = "v1," + base64.b64encode(digest).decode()
            headers |= {"webhook-id": delivery, "webhook-timestamp": stamp, "webhook-signature": signature}
        return headers
