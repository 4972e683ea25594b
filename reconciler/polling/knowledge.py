"""What is known and what is not, for the commands, the dashboard, metrics and alerts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

import msgspec

from reconciler.config.models import Config
from reconciler.events import times
from reconciler.events.times import Millis
from reconciler.ledger.alerts import Missed
from reconciler.ledger.coverage.gaps import gaps
from reconciler.ledger.coverage.source_state import switched_off
from reconciler.ledger.storage.connection import look_at
from reconciler.ledger.storage.database import Database
from reconciler.ledger.upkeep.failing_parts import Part
from reconciler.ledger.views.unknowns import Asked, Known, own_failures, unknowns
from reconciler.polling.schedule import expected, longest_poll_interval
from reconciler.polling.watchlist import names
from reconciler.sources.table import keeps

FRESH_S = 2.0
"""How long an answer is reused."""


def asked(config: Config, now: Millis) -> Asked:
    """What the config wants to be read."""
    return Asked(
        url=config.gitlab.url,
        has_token=config.gitlab.token is not None,
        names=names(config),
        late=Millis(now - 2 * longest_poll_interval(config)),
    )


def missed(config: Config, now: Millis) -> Missed:
    """Since when something must have failed to have missed two polls."""
    return Missed(Millis(now - 2 * config.reconcile.interval), Millis(now - 2 * longest_poll_interval(config)))


def look(db: Database, config: Config, now: Millis) -> Known:
    """What is known now: what is not, the gaps in what is, and what is switched off in projects."""
    found = gaps(db, keeps=keeps(), expected=expected(config, now), now=now)
    return Known(unknowns(db, asked(config, now), now=now), found, switched_off(db))


class SharedLook:
    """`look` for the parts of a service, which share its answer.

    It opens a connection of its own, and takes a moment if there are many projects: call it from a thread, never on
    the event loop. `trouble` says why the file at the ledger's path must not be read, if so. `parts` are those of
    this process: what fails before it has the ledger is not in there.
    """

    def __init__(
        self,
        current: Callable[[], Config],
        trouble: Callable[[], str | None] = lambda: None,
        parts: Callable[[], Iterable[Part]] = list,
    ) -> None:
        self._current = current
        self._trouble = trouble
        self._parts = parts
        self._lock = threading.Lock()
        self._last: tuple[float, Config, Known] | None = None

    def __call__(self) -> Known:
        """The answer, at most `FRESH_S` old, for the present config. Raises LedgerError."""
        with self._lock:
            config = self._current()
            if self._last is None or self._last[1] is not config or time.monotonic() - self._last[0] > FRESH_S:
                with look_at(config.ledger.location, self._trouble) as db:
                    found = look(db, config, times.now())
                own = own_failures(found.unknowns, self._parts(), config.gitlab.url)
                found = msgspec.structs.replace(found, unknowns=[*own, *found.unknowns])
                self._last = (time.monotonic(), config, found)
            return self._last[2]
