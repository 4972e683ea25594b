"""Which secrets are easy to guess."""

from __future__ import annotations

import base64

from pydantic import SecretStr

SHORTEST_TOKEN = 16
"""In characters. Longer ones can't be guessed at the rate at which a server answers."""
FEWEST_DIFFERENT = 6
SHORTEST_KEY = 24
"""In bytes, of a signing key: the minimum of Standard Webhooks."""


def guessable(token: SecretStr) -> bool:
    """Whether a token is too short, or has too few different characters."""
    text = token.get_secret_value()
    return len(text) < SHORTEST_TOKEN or len(set(text)) < FEWEST_DIFFERENT


def guessable_key(key: SecretStr) -> bool:
    """Whether a signing key is too short."""
    return len(base64.b64decode(key.get_secret_value().removeprefix("whsec_"))) < SHORTEST_KEY
