"""The interface for observers of attempts."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from reconciler.events.times import Millis


class Watcher(Protocol):
    """Is notified of attempts: for alerts, metrics and traces."""

    def attempting(self, event_id: str, destination: str, number: int) -> AbstractContextManager[dict[str, str]]:
        """The context of one attempt. It yields headers that are sent with it."""

    def trouble(self) -> None:
        """Something was recorded that may need an alert."""

    def attempted(self, destination: str, outcome: str, took: Millis, waited: Millis | None) -> None:
        """An attempt was recorded. `outcome` is `delivered` or the error's class; `waited` is the time since the
        delivery was opened, None if it was not delivered.
        """
