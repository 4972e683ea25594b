"""Webhooks as GitLab sends them: once, without retry, and less often the more they fail.

See docs/gitlab.md, "Webhook deliveries", and docs/gitlab.md, "Webhooks that GitLab disables".
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
import json
import queue
import re
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any

import httpx

from reconciler.simulator.core import Happening
from reconciler.simulator.payloads import millis

FAILURES_BEFORE_DISABLED = 4
FIRST_PAUSE_S = 60.0
LONGEST_PAUSE_S = 86_400.0
FAILURES_BEFORE_DISABLED_FOR_GOOD = 40
LOG_KEPT_MS = 7 * 86_400_000

TRIGGERS = {
    "Push Hook": "push_events",
    "Tag Push Hook": "tag_push_events",
    "Issue Hook": "issues_events",
    "Confidential Issue Hook": "confidential_issues_events",
    "Merge Request Hook": "merge_requests_events",
    "Note Hook": "note_events",
    "Confidential Note Hook": "confidential_note_events",
    "Job Hook": "job_events",
    "Pipeline Hook": "pipeline_events",
    "Wiki Page Hook": "wiki_page_events",
    "Deployment Hook": "deployment_events",
    "Release Hook": "releases_events",
    "Milestone Hook": "milestone_events",
    "Feature Flag Hook": "feature_flag_events",
    "Emoji Hook": "emoji_events",
    "Resource Access Token Hook": "resource_access_token_events",
    "Resource Deploy Token Hook": "resource_deploy_token_events",
    "Vulnerability Hook": "vulnerability_events",
}
EMAIL = re.compile(r"[a-zA-Z0-9.!#$%&'*+/=?^_`{|}~-]+@[a-zA-Z0-9-]+(\.[a-zA-Z0-9-]+)*")


@dataclass
class HookFaults:
    """What goes wrong between GitLab and the receiver. Each number says how many of the next ones."""

    drop: int = 0
    double: int = 0
    delay_s: float = 0.0
    during_test: Callable[[], object] = lambda: None
    """What else happens while GitLab makes a test, before the test itself goes out."""
    untestable: frozenset[str] = frozenset()
    """Triggers for which GitLab finds nothing to make a test of."""


@dataclass
class Hook:
    """One webhook in a project's settings, or a group's (its id below zero)."""

    id: int
    project_id: int
    url: str
    token: str = ""
    signing_token: str = ""
    idempotency_key: bool = True
    log_has_times: bool = False
    """Whether its log says when a delivery was made, as that of newer versions does."""
    takes_signing_token: bool = True
    """Whether GitLab keeps a signing token: before 19.0, and where a feature flag is off, it ignores one."""
    event_uuid: str | None = None
    faults: HookFaults = field(default_factory=HookFaults)
    first_pause_s: float = FIRST_PAUSE_S
    triggers: dict[str, bool] = field(default_factory=lambda: dict.fromkeys(TRIGGERS.values(), True))
    settings: dict[str, Any] = field(default_factory=dict)
    clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    failures: int = 0
    disabled_until: float = 0.0
    sent: int = 0
    accepted: int = 0
    log: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    """Each delivery, and when it was made."""
    originals: dict[int, tuple[str, bytes, str | None]] = field(default_factory=dict)

    @property
    def alert_status(self) -> str:
        if self.failures >= FAILURES_BEFORE_DISABLED_FOR_GOOD:
            return "disabled"
        return "temporarily_disabled" if self.clock() / 1000 < self.disabled_until else "executable"

    def note(self, *, success: bool) -> None:
        """Count an outcome the way GitLab does."""
        if success:
            self.failures, self.disabled_until = 0, 0.0
            return
        if self.project_id < 0:
            return  # GitLab disables project webhooks only
        self.failures += 1
        if self.failures >= FAILURES_BEFORE_DISABLED:
            pause = self.first_pause_s * 2 ** (self.failures - FAILURES_BEFORE_DISABLED)
            self.disabled_until = self.clock() / 1000 + min(pause, LONGEST_PAUSE_S)

    def kept_log(self) -> list[dict[str, Any]]:
        """The deliveries of the last 7 days, oldest first."""
        oldest = self.clock() - LOG_KEPT_MS
        return [record for at, record in self.log if at >= oldest]


def webhook_bytes(body: Mapping[str, Any] | None) -> bytes:
    """A webhook's body as it goes over the wire: the same bytes from every hook."""
    return json.dumps(body, separators=(",", ":")).encode()


class Courier:
    """Delivers webhooks from a thread of its own, in the order they were caused."""

    def __init__(self, timeout_s: float = 10.0) -> None:
        self.hooks: dict[int, Hook] = {}
        self.takes_signing_tokens = True
        self.is_in: Callable[[int, int], bool] = lambda project, place: project == place
        """Whether a project is, or is below, the place of a hook."""
        self._log_ids = itertools.count(1)
        self._work: queue.Queue[tuple[Hook, Happening] | None] = queue.Queue()
        self._client = httpx.Client(timeout=timeout_s, follow_redirects=False)
        self._thread = threading.Thread(target=self._run, name="courier", daemon=True)
        self._thread.start()

    def add(self, hook: Hook) -> Hook:
        """Enter a webhook; it is given an id."""
        hook.id = max(self.hooks, default=0) + 1
        self.hooks[hook.id] = hook
        return hook

    def tell(self, happening: Happening) -> None:
        """Something happened: queue it for every hook of its project and of the groups above."""
        if happening.webhook is not None:
            for hook in self.hooks.values():
                if self.is_in(happening.project_id, hook.project_id) and hook.triggers.get(_trigger(happening)):
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

    def post(
        self, hook: Hook, hook_event: str, body: bytes, key: str | None = None, *, is_test: bool = False
    ) -> bool:
        """Deliver one body once; says whether GitLab takes it for a success. `key`: again, under the same key."""
        headers = self._headers(hook, hook_event, body, key)
        hook.sent += 1
        answer: dict[str, str] = {}
        try:
            response = self._client.post(hook.url, content=body, headers=headers)
            status, ok = str(response.status_code), response.status_code < 400  # a 3xx is success to GitLab
            answer = {"Date": formatdate(hook.clock() / 1000, usegmt=True)}
        except httpx.HTTPError:
            status, ok = "internal error", False
        hook.accepted += ok and not is_test
        hook.note(success=ok)
        record = {
            "id": next(self._log_ids),
            "url": hook.url,
            "trigger": hook_event.lower().replace(" ", "_") + "s",
            "request_headers": {k: "[REDACTED]" if k == "X-Gitlab-Token" else v for k, v in headers.items()},
            "request_data": _redacted(json.loads(body)),
            "response_headers": answer,
            "response_body": "",
            "execution_duration": 0.01,
            "response_status": status,
        }
        if hook.log_has_times:
            record["created_at"] = millis(hook.clock())
        hook.log.append((hook.clock(), record))
        hook.originals[record["id"]] = (hook_event, body, headers.get("Idempotency-Key"))
        return ok

    def resend(self, hook: Hook, record_id: int) -> bool:
        """Send a delivery of the log again, with its key and its original bytes."""
        hook_event, body, key = hook.originals[record_id]
        return self.post(hook, hook_event, body, key)

    @staticmethod
    def _headers(hook: Hook, hook_event: str, body: bytes, key: str | None) -> dict[str, str]:
        delivery = key or str(uuid.uuid4())
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
            secret = base64.b64decode(hook.signing_token.removeprefix("whsec_"))
            stamp = str(int(time.time()))
            digest = hmac.new(secret, f"{delivery}.{stamp}.".encode() + body, hashlib.sha256).digest()
            signature = "v1," + base64.b64encode(digest).decode()
            headers |= {"webhook-id": delivery, "webhook-timestamp": stamp, "webhook-signature": signature}
        return headers


def _trigger(happening: Happening) -> str:
    return TRIGGERS[happening.hook_event or ""]


def _redacted(value: Any) -> Any:
    """As the hook log shows a body: e-mail addresses blotted out."""
    if isinstance(value, dict):
        return {name: _redacted(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_redacted(item) for item in value]
    return "[REDACTED]" if isinstance(value, str) and EMAIL.fullmatch(value) else value
