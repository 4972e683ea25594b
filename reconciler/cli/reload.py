"""`reload`: makes the running service read its config again."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from reconciler.cli.common import DEFAULT_CONFIG, ConfigOption, fail, ledger_file, out, read_config, say
from reconciler.ledger.storage.connection import opened
from reconciler.ledger.storage.lock import service_process
from reconciler.ledger.storage.receivers import Receiver
from reconciler.ledger.upkeep.reloads import Reload, last_reload
from reconciler.ledger.views.receiving import running_here

PATIENCE_S = 60.0
CHECK_INTERVAL_S = 0.05


def reload(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Make the running service read its config again, without missing a webhook. Same as SIGHUP.

    A receiver and a worker that run alone (`serve --only`) are both asked, and each is reported. Ports, host names,
    the tokens of `admin`, `receiver.keep_alive`, the ledger and `gitlab.url` need a restart. A config that
    changes one of them, or has mistakes, is refused, and the service continues with the old one.
    """
    path = ledger_file(read_config(config), "send SIGHUP to each of its services")
    service, receivers = service_process(path), running_here(path)
    if service is None and not receivers:
        fail(f"no service is running on {path}")
    before = None if service is None else _last(path)
    alone = [one for one in receivers if one.service != service]
    for process in {one.service for one in receivers} | ({service} if service is not None else set()):
        os.kill(process, signal.SIGHUP)
    deadline = time.monotonic() + PATIENCE_S
    results: list[tuple[str, str | None]] = []
    if service is not None and before is not None:
        # Below a parent the receiver is first, so it has reported before the worker.
        who = f"worker (process {service})" if alone else f"service (process {service})"
        results.append((who, _outcome(path, before, deadline)))
    for one in receivers:
        error = _receiver_outcome(path, one, deadline)
        if one in alone or error is not None:
            results.append((f"receiver (process {one.pid})", error))
    for who, error in results:
        if error is None:
            out.print(f"The {who} now uses {config}.")
    if not receivers:
        say("no receiver was found running here: one that runs elsewhere must be asked there, by SIGHUP")
    wrong = [f"the {who} {error}" for who, error in results if error is not None]
    if wrong:
        fail("; ".join(wrong))


def _last(path: Path) -> Reload:
    with opened(path, readonly=True) as db:
        return last_reload(db)


def _outcome(path: Path, before: Reload, deadline: float) -> str | None:
    """What went wrong with the service's reload; None if nothing did."""
    with opened(path, readonly=True) as db:
        while (done := last_reload(db)).number == before.number:
            if time.monotonic() > deadline:
                return _late()
            time.sleep(CHECK_INTERVAL_S)
    return _refused(done.error)


def _receiver_outcome(path: Path, before: Receiver, deadline: float) -> str | None:
    while True:
        [*found] = [one for one in running_here(path) if one.pid == before.pid]
        if not found:
            return "ended meanwhile: it reads the config when it starts again"
        if found[0].reloads != before.reloads:
            return _refused(found[0].error)
        if time.monotonic() > deadline:
            return _late()
        time.sleep(CHECK_INTERVAL_S)


def _refused(error: str | None) -> str | None:
    return None if error is None else f"refused the config and continues with the old one: {error}"


def _late() -> str:
    return f"did not report back within {PATIENCE_S:.0f} s"
