"""Warns of filters that may match nothing, or no longer what was intended. Each warning is logged once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from reconciler.config.models import Config
from reconciler.forwarding.filter_doubts import doubts
from reconciler.ledger.queue import known
from reconciler.ledger.storage.database import Database

CHECK_INTERVAL_S = 5.0

log = structlog.get_logger(__name__)


class FilterWatch:
    """Compares the config's filters with what the ledger has seen."""

    def __init__(self, config: Callable[[], Config], db: Database) -> None:
        self._config = config
        self._db = db
        self._logged: set[tuple[str, str]] = set()

    def look(self, config: Config) -> None:
        """Log new warnings. Never raises, because they are only hints."""
        try:
            found = set(doubts(config, self._db))
        except Exception:  # they are only hints
            log.exception("filters not checked")
            return
        for destination, why in sorted(found - self._logged):
            log.warning("filter may not match as intended", destination=destination, reason=why)
        self._logged |= found

    async def run(self) -> None:
        """Check again whenever a project is renamed."""
        renamed = known.renames(self._db)
        while True:
            await asyncio.sleep(CHECK_INTERVAL_S)
            if (now := known.renames(self._db)) != renamed:
                renamed = now
                self.look(self._config())
