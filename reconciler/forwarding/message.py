"""What goes out for one attempt, and what comes back."""

from __future__ import annotations

import msgspec

from reconciler.events.texts import certificate_advice, without_credentials
from reconciler.events.times import Millis

EXCERPT_BYTES = 1024
"""How much of an answer, or of an error's text, is kept."""


class Message(msgspec.Struct, frozen=True):
    """One event, ready for one destination.

    `id` is the event's for ever, at every attempt and every replay: consumers know repeats by it. `project` is
    what messages of one project have in common (its id as text, `0` for none), for brokers that keep order by key.
    """

    id: str
    project: str
    about: dict[str, str]
    """What subjects and routing keys are made of: project_id, project_path, kind, action."""
    headers: dict[str, str]
    body: bytes
    sent_at: Millis


class Answer(msgspec.Struct, frozen=True):
    """What came of an attempt: taken, where `error_class` is None.

    `refused`: this event will never be taken. `gone`: no event will, until a person says otherwise. Everything else
    is tried again, after `retry_after` at the earliest.
    """

    error_class: str | None = None
    error: str | None = None
    status: int | None = None
    response: str | None = None
    retry_after: Millis = Millis(0)
    refused: bool = False
    gone: bool = False

    @property
    def taken(self) -> bool:
        return self.error_class is None


TAKEN = Answer()


class Refused(Exception):
    """The destination will never take this message: it is too large, or malformed. Makes a dead letter at once."""


class NotTaken(Exception):
    """The destination did not take this message now, and works all the same: no queue is bound to it, a stream
    is full. It is tried again, over the same connection.
    """


def excerpt(text: str) -> str:
    """As much of a text as is kept; URLs in it without passwords."""
    quiet = without_credentials(text[: 8 * EXCERPT_BYTES])
    return quiet.encode("utf-8", "replace")[:EXCERPT_BYTES].decode("utf-8", "ignore").replace("\x00", "").strip()


def failure(error: BaseException) -> str:
    """An error of a library, as it is shown: with what to do, where that can be told."""
    words = str(error) or type(error).__name__
    return excerpt(f"{certificate_advice(words, 'tls.ca_file')}{type(error).__name__}: {words}")
