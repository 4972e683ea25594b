"""`python -m benchmarks [name …]`: measure, and print a table. `ledger-5m` takes half an hour, so that it is only
measured by name. With QUICK=1 in the environment every row is measured with less work."""

from __future__ import annotations

import os
import platform
import sqlite3
import sys
import time

from benchmarks import backfill, burst, copies, dashboard, forwarder, ledger, receiver, reconcile, service
from benchmarks.table import markdown
from reconciler import logs

PARTS = {
    "receiver": receiver.measure,
    "forwarder": forwarder.measure,
    "service": service.measure,
    "burst": burst.measure,
    "copies": copies.measure,
    "backfill": backfill.measure,
    "reconcile": reconcile.measure,
    "ledger": ledger.measure,
    "dashboard": dashboard.measure,
}
ONLY_BY_NAME = {"ledger-5m": ledger.measure_largest}


def main() -> None:
    wanted = sys.argv[1:] or list(PARTS)
    parts = PARTS | ONLY_BY_NAME
    unknown = set(wanted) - set(parts)
    if unknown:
        sys.exit(f"no such benchmark: {', '.join(sorted(unknown))}; there are {', '.join(parts)}")
    logs.set_up("error")
    rows = []
    for name in wanted:
        print(f"measuring {name} …", file=sys.stderr, flush=True)
        rows += parts[name]()
    print(
        f"{time.strftime('%Y-%m-%d')}, Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, "
        f"{os.cpu_count()} cores\n"
    )
    print(markdown(rows))


if __name__ == "__main__":
    main()
