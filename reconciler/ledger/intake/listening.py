"""Waits for news in PostgreSQL: the server tells when webhooks were appended or deliveries opened, on whichever host.

Nothing depends on it: without a connection the recorder and the outboxes look now and then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import aclosing

import psycopg
import structlog

from reconciler.ledger.intake.async_connection import answer, connect
from reconciler.ledger.queue.opening import Opened
from reconciler.ledger.reminder import Reminder
from reconciler.ledger.storage.explaining import explain
from reconciler.ledger.storage.postgresql import OPENED
from reconciler.location import PostgresUrl

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0
LOOK_S = 15.0
"""How often it is looked whether the server still answers."""
CHANNEL = "intake"

log = structlog.get_logger(__name__)


async def listen(url: PostgresUrl, appended: Callable[[], None], opened: Callable[[Iterable[Opened]], None]) -> None:
    """Call `appended` when webhooks were appended, and whenever some may have been, and `opened` with deliveries that
    a copy has opened. Never ends.
    """
    pause_s, reminder = FIRST_PAUSE_S, Reminder()
    while True:
        try:
            async with await connect(url) as conn:
                await answer(conn, f"LISTEN {CHANNEL}")
                await answer(conn, f"LISTEN {OPENED}")
                [[schema]] = await answer(conn, "SELECT current_schema()")
                if reminder.is_due(None):
                    log.info("listening for webhooks again")
                pause_s = FIRST_PAUSE_S
                appended()
                while True:
                    async with aclosing(conn.notifies(timeout=LOOK_S)) as notifies:
                        async for one in notifies:
                            if one.channel == OPENED:
                                destinations, _, where = one.payload.partition(" ")
                                if where == schema:
                                    opened(Opened(int(ident)) for ident in destinations.split(","))
                            elif one.payload == schema:
                                appended()
                    await answer(conn, "SELECT 1")  # a connection that leads nowhere tells nothing
        except psycopg.Error as error:
            if reminder.is_due(why := explain(error)):
                log.warning("not listening for webhooks: they are recorded a moment later", reason=why)
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
