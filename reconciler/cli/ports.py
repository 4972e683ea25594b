"""The ports that the service needs, for `check`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from reconciler.config.models import Config
from reconciler.ledger.storage.lock import service_process
from reconciler.service.listen_addresses import listening, trouble


def ports(config: Config) -> Iterator[tuple[str, str | None]]:
    """Each port, and what is wrong with it. A service running on this ledger may use its ports."""
    location = config.ledger.location
    ours = service_process(location) if isinstance(location, Path) else None
    for name, host, port in listening(config):
        where = f"{name}: port {port} of {host}"
        why = trouble(host, port)
        if why is None:
            yield f"{where} is free", None
        elif ours is not None:
            yield f"{where} is in use by the running service (process {ours})", None
        else:
            yield where, f"`serve` can't listen there: {why}; see {name}.host and {name}.port"
