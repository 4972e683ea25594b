"""`reload`: makes the running service read its config again."""

from __future__ import annotations

import os
import signal
import time

from reconciler.cli.common import DEFAULT_CONFIG, ConfigOption, fail, out, read_config
from reconciler.ledger.storage.connection import opened
from reconciler.ledger.storage.lock import service_process
from reconciler.ledger.upkeep.reloads import last_reload

PATIENCE_S = 60.0
LOOK_S = 0.05


def reload(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Make the running service read its config again, without missing a webhook. Same as SIGHUP.

    Destinations, hooks, projects and all settings for GitLab can be changed this way. A config with mistakes is
    refused, and the service continues with the old one.
    """
    loaded = read_config(config)
    process = service_process(loaded.ledger.path)
    if process is None:
        fail(f"no service is running on {loaded.ledger.path}")
    with opened(loaded.ledger.path, readonly=True) as db:
        before = last_reload(db)
        os.kill(process, signal.SIGHUP)
        deadline = time.monotonic() + PATIENCE_S
        while (done := last_reload(db)).number == before.number:
            if time.monotonic() > deadline:
                fail(f"the service (process {process}) did not report back within {PATIENCE_S:.0f} s")
            time.sleep(LOOK_S)
    if done.error is not None:
        fail(f"the service refused the config and continues with the old one: {done.error}")
    out.print(f"The service (process {process}) now uses {config}.")
