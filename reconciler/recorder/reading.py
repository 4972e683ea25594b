"""Reads a webhook of the intake into a sighting."""

from __future__ import annotations

import structlog

from reconciler.events.fields import parsed
from reconciler.events.hook_tests import ExpectedTests
from reconciler.events.sighting import Sighting
from reconciler.events.webhook_sighting import as_test, webhook_sighting
from reconciler.ledger.intake.intake import ReceivedWebhook

log = structlog.get_logger(__name__)


class WebhookReader:
    """Makes the sighting of each webhook, and adds every project that one names to `project_ids`.

    A test that is found is removed from `expected_tests`.
    """

    def __init__(self, project_ids: dict[str, int], expected_tests: ExpectedTests) -> None:
        self._project_ids = project_ids
        self._expected_tests = expected_tests

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
        if not self._expected_tests.take(webhook.hook, body, received_at=webhook.received_at):
            return sighting
        log.info("test webhook received", project=about.project_path)
        return as_test(sighting)
