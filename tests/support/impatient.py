"""The command line with a parent that waits only seconds for a process that is silent or does not stop, or a disk:
`python -m tests.support.impatient serve -c …`.
"""

from __future__ import annotations

from functools import partial

from reconciler.service import loops, processes, receiving, repairing

SILENCE_S = 3.0
STOP_S = 1.0
SAYS_S = 0.2
HANGS_S = 0.5

if __name__ == "__main__":
    loops.HEARTBEAT_S = receiving.ALIVE_S = repairing.EXTEND_EVERY_S = SAYS_S
    receiving.HANGS_S, receiving.HEARTBEAT_S = HANGS_S, SAYS_S
    processes.STOP_S = dict.fromkeys(processes.STOP_S, STOP_S)
    processes.split = partial(processes.split, silence_s=SILENCE_S)

    from reconciler.cli import main

    main()
