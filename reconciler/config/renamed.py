"""Keys that had another name in earlier versions. The old name is refused, and the message gives the new one."""

from __future__ import annotations

import re

from reconciler.config.mistakes import Path_, spell

RENAMED = {
    "receiver.max_waiting": "max_pending_bytes",
    "reconcile.parallel": "concurrency",
    "reconcile.round": "full_poll_interval",
    "reconcile.settle": "grace_period",
    "destinations[].gets": "type",
    "destinations[].start": "start_from",
    "destinations[].rate": "rate_limit",
    "destinations[].keep": "max_files",
    "destinations[].retry.first": "initial_delay",
    "destinations[].retry.longest": "max_delay",
    "destinations[].retry.dead_on_4xx": "dead_letter_on_4xx",
    "destinations[].breaker.longest": "max_delay",
    "destinations[].breaker.settle": "recovery_hold",
}
"""By the path of the old key, the new name of the key in the same section."""

_INDEX = re.compile(r"\[\d+\]")


def new_name(path: Path_) -> str | None:
    """What the key at this path is called now; None if it never had another name."""
    return RENAMED.get(_INDEX.sub("[]", spell(path)))
