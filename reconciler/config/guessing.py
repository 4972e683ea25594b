"""Which secrets can be guessed."""

from __future__ import annotations

import base64

from pydantic import SecretStr

SHORTEST_TOKEN = 16
"""In characters. Nobody guesses so many at the rate at which a server answers."""
FEWEST_DIFFERENT = 6
SHORTEST_KEY = 24
"""In bytes, of a key to sign with: the least that Standard Webhooks allows."""


def guessable(token: SecretStr) -> bool:
    """Whether a token is too short, or of too few characters, to keep anybody out."""
    text = token.get_secret_value()
    return len(text) < SHORTEST_TOKEN or len(set(text)) < FEWEST_DIFFERENT


def guessable_key(key: SecretStr) -> bool:
    """Whether a key to sign with is too short."""
    return len(base64.b64decode(key.get_secret_value().removeprefix("whsec_"))) < SHORTEST_KEY
