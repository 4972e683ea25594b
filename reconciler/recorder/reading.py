"""Reads a webhook of the intake into a sighting."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import structlog

from reconciler.events.fields import parsed
from reconciler.events.hook_tests import ExpectedTests, is_test
from reconciler.events.sighting import Sighting
from reconciler.events.times import Millis
from reconciler.events.webhook_sighting import as_test, webhook_sighting
from reconciler.ledger.intake.intake import ReceivedWebhook

REMEMBERED = 1000
"""How many tests are remembered: only webhooks that could not be recorded are read again."""

_Identity = tuple[str, Millis, str | None, bytes]

log = structlog.get_logger(__name__)


class WebhookReader:
    """Makes the sighting of each webhook, and adds every project that one names to `project_ids`.

    A test that is found is removed from `expected_tests`. The webhook stays a test if it is read again, because it
    could not be recorded.
    """

    def __init__(self, project_ids: dict[str, int], expected_tests: ExpectedTests) -> None:
        self._project_ids = project_ids
        self._expected_tests = expected_tests
        self._tests: dict[_Identity, None] = {}
        """The webhooks that were found to be expected tests, oldest first."""

    def sighting(self, webhook: ReceivedWebhook) -> Sighting:
        """The sighting of a webhook. Raises whatever a bug raises."""
        body = parsed(webhook.body)
        headers = webhook.headers
        # System hooks have bodies of their own, so they count as a source of their own.
        prefix = "system_hook" if headers.get("X-Gitlab-Event") == "System Hook" else "webhook"
        sighting = webhook_sighting(
            body,
            payload=webhook.body.decode(),
            source=f"{prefix}:{webhook.hook}",
            source_id=headers.get("Idempotency-Key"),
            event_uuid=headers.get("X-Gitlab-Event-UUID"),
            seen_at=webhook.received_at,
            headers=headers,
            project_ids=self._project_ids,
        )
        about = sighting.summary
        if about.project_id is not None and about.project_path is not None:
            self._project_ids[about.project_path] = about.project_id
        return as_test(sighting) if self._is_expected_test(webhook, body, about.project_path) else sighting

    def _is_expected_test(self, webhook: ReceivedWebhook, body: Any, project: str | None) -> bool:
        if not is_test(body):
            return False
        identity = _identity(webhook)
        if identity in self._tests:
            return True
        if not self._expected_tests.take(webhook.hook, body, received_at=webhook.received_at):
            return False
        log.info("test webhook received", project=project)
        self._tests[identity] = None
        if len(self._tests) > REMEMBERED:
            del self._tests[next(iter(self._tests))]
        return True


def _identity(webhook: ReceivedWebhook) -> _Identity:
    """What identifies a webhook, in the intake as in the ledger."""
    return webhook.hook, webhook.received_at, webhook.headers.get("Idempotency-Key"), sha256(webhook.body).digest()
