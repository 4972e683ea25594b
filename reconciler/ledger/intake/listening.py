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
from reconciler.ledger.storage.postgresql import OPENED, explain
from reconciler.location import PostgresUrl

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0
CHANNEL = "intake"

log = structlog.get_logger(__name__)


async def listen(url: PostgresUrl, appended: Callable[[], None], opened: Callable[[Iterable[Opened]], None]) -> None:
    """Call `appended` when webhooks were appended, and whenever some may have been, and `opened` with deliveries that
    a copy has opened. Never ends.
    """
    pause_s, lost = FIRST_PAUSE_S, False
    while True:
        try:
            async with await connect(url) as conn:
                await answer(conn, f"LISTEN {CHANNEL}")
                await answer(conn, f"LISTEN {OPENED}")
                [[schema]] = await answer(conn, "SELECT current_schema()")
                if lost:
                    log.info("listening for webhooks again")
                pause_s, lost = FIRST_PAUSE_S, False
                appended()
                async with aclosing(conn.notifies()) as notifies:
                    async for one in notifies:
                        if one.channel == CHANNEL and one.payload == schema:
                            appended()
                        elif one.channel == OPENED:
                            destinations, _, where = one.payload.partition(" ")
                            if where == schema:
                                opened(Opened(int(ident)) for ident in destinations.split(","))
        except psycopg.Error as error:
            if not lost:
                log.warning("not listening for webhooks: they are recorded a moment later", reason=explain(error))
            lost = True
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
