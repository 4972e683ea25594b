"""Waits for webhooks in PostgreSQL: the server tells when some were appended, on whichever host.

Nothing depends on it: without a connection the recorder looks now and then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing

import psycopg
import structlog

from reconciler.ledger.intake.async_connection import answer, connect
from reconciler.ledger.reminder import Reminder
from reconciler.ledger.storage.explaining import explain
from reconciler.location import PostgresUrl

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0
LOOK_S = 15.0
"""How often it is looked whether the server still answers."""
CHANNEL = "intake"

log = structlog.get_logger(__name__)


async def listen(url: PostgresUrl, wake: Callable[[], None]) -> None:
    """Call `wake` when webhooks were appended, and whenever some may have been. Never ends."""
    pause_s, reminder = FIRST_PAUSE_S, Reminder()
    while True:
        try:
            async with await connect(url) as conn:
                await answer(conn, f"LISTEN {CHANNEL}")
                [[schema]] = await answer(conn, "SELECT current_schema()")
                if reminder.is_due(None):
                    log.info("listening for webhooks again")
                pause_s = FIRST_PAUSE_S
                wake()
                while True:
                    async with aclosing(conn.notifies(timeout=LOOK_S)) as notifies:
                        async for one in notifies:
                            if one.payload == schema:
                                wake()
                    await answer(conn, "SELECT 1")  # a connection that leads nowhere tells nothing
        except psycopg.Error as error:
            if reminder.is_due(why := explain(error)):
                log.warning("not listening for webhooks: they are recorded a moment later", reason=why)
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
