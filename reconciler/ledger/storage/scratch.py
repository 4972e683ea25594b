"""A ledger in PostgreSQL for a while: in a schema of its own, which is removed at the end."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import closing, contextmanager
from urllib.parse import quote

from reconciler.ledger.storage.postgresql import connect
from reconciler.location import PostgresUrl

PATIENCE_S = 10.0


@contextmanager
def scratch_ledger(url: PostgresUrl, *, prefix: str) -> Iterator[PostgresUrl]:
    """A place for a ledger in the database at `url`. Raises LedgerUnavailable."""
    name = f"{prefix}_{secrets.token_hex(6)}"
    with closing(connect(url.value, patience_s=PATIENCE_S)) as server:
        server.execute(f"CREATE SCHEMA {name}")
    try:
        joint = "&" if "?" in url.value else "?"
        yield PostgresUrl(f"{url.value}{joint}options={quote(f'-c search_path={name}')}")
    finally:
        with closing(connect(url.value, patience_s=PATIENCE_S)) as server:
            server.give_up_after(None)
            server.execute(f"DROP SCHEMA {name} CASCADE")
