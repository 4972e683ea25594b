"""Prepares webhooks of the intake for recording: a bug that one of them triggers does not stop the others."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence

import msgspec
import structlog

from reconciler.events.sighting import Sighting
from reconciler.ledger.intake.intake import ReceivedWebhook, StoredWebhook
from reconciler.recorder.reading import WebhookReader

LOST = "the intake is damaged here: this webhook can't be read any more"

log = structlog.get_logger(__name__)


class Prepared(msgspec.Struct, frozen=True):
    """A webhook, and its sighting or why there is none."""

    position: int
    webhook: ReceivedWebhook
    sighting: Sighting | None
    error: str = ""


class Preparer:
    """Makes the sightings of webhooks."""

    def __init__(self, reader: WebhookReader) -> None:
        self._reader = reader
        self._bugs: set[str] = set()

    def prepared(self, webhooks: Sequence[StoredWebhook]) -> Iterator[Prepared]:
        """Each webhook with its sighting, or with the error that prevented one."""
        for one in webhooks:
            if one.webhook.is_lost:
                yield Prepared(one.position, one.webhook, None, LOST)
                continue
            try:
                yield Prepared(one.position, one.webhook, self._reader.sighting(one.webhook))
            except Exception as error:  # a bug: this webhook is kept aside, and the others are recorded
                yield Prepared(one.position, one.webhook, None, self._bug(error))

    def _bug(self, error: Exception) -> str:
        """The text of an error that a bug raised. It is logged with its traceback the first time."""
        kind = f"{type(error).__name__} {traceback.extract_tb(error.__traceback__)[-1:]}"
        if kind not in self._bugs:
            self._bugs.add(kind)
            log.error("webhook not understood because of a bug in this program", exc_info=error)
        return f"{type(error).__name__}: {error}"
