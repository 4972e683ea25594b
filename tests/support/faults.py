"""The command line with faults planted in it: `python -m tests.support.faults module:name serve -c …`.

The function so named raises instead of doing its work, with its arguments in its frame.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

PLANTED = "a planted fault"


def plant(where: str) -> None:
    module, _, path = where.partition(":")
    owner: Any = importlib.import_module(module)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)

    def fault(*arguments: Any, **named: Any) -> Any:
        raise RuntimeError(f"{PLANTED}; it was on its way to amqp://user:url-password@broker/?token=url-token")

    setattr(owner, name, fault)


if __name__ == "__main__":
    plant(sys.argv.pop(1))
    from reconciler.cli import main

    main()
