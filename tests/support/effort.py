"""How much is tried by tests that try many things at random: `THOROUGH=1 make test` tries ten times as much."""

from __future__ import annotations

import os

THOROUGH = bool(os.environ.get("THOROUGH"))


def tries(usual: int) -> int:
    """How often something is tried in this run, of which so many are usual."""
    return usual * 10 if THOROUGH else usual
