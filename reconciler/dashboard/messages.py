"""The answers to forms, for the next page."""

from __future__ import annotations

import secrets
from collections import OrderedDict

MESSAGES_KEPT = 100


class Messages:
    """The URL of the next page has the id of a message, not its text."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, str] = OrderedDict()

    def keep(self, text: str) -> str:
        """Store a message; old ones are dropped. Returns its id, which can't be guessed."""
        number = secrets.token_urlsafe(12)
        self._kept[number] = text
        while len(self._kept) > MESSAGES_KEPT:
            self._kept.popitem(last=False)
        return number

    def get(self, number: str) -> str:
        """The text of a message, or an empty one."""
        return self._kept.get(number, "")
