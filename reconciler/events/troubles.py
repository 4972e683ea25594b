"""Words for what keeps a source from being read, where more than one package must know them."""

from __future__ import annotations

SWITCHED_OFF = "switched off"
"""What the source reads is switched off in the project. That is no failure, and leaves no gap from then on."""

NO_WEBHOOK = "no webhook"
"""The project has no webhook that delivers to us, so there is no delivery log to read."""
