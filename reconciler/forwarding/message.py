"""The message of one attempt, and the destination's answer."""

from __future__ import annotations

import msgspec

from reconciler.events.texts import certificate_advice, without_credentials
from reconciler.events.times import Millis
from reconciler.ledger.queue.deliveries import Outgoing

EXCERPT_BYTES = 1024
"""How much of an answer or an error text is stored."""


class Message(msgspec.Struct, frozen=True):
    """One event, ready for one destination.

    `id` is the event's id, the same at every attempt and replay, so that consumers can detect repeats. `project` is
    the project's id as text (`0` for none), for brokers that keep order by key.
    """

    id: str
    project: str
    about: dict[str, str]
    """The values for subjects and routing keys: project_id, project_path, kind, action."""
    headers: dict[str, str]
    body: bytes
    sent_at: Millis
    lane: str = ""
    """Messages of one lane are accepted in order. A batch may contain several of them."""
    event: Outgoing | None = None
    """The event, for kinds that store its parts beside the body. None if the message stands for several."""


class Answer(msgspec.Struct, frozen=True):
    """The result of an attempt: accepted if `error_class` is None.

    `rejected`: the destination will never accept this event. `gone`: it will accept no event until a person resumes
    it. Any other error is retried, after `retry_after` at the earliest.
    """

    error_class: str | None = None
    error: str | None = None
    status: int | None = None
    response: str | None = None
    retry_after: Millis = Millis(0)
    rejected: bool = False
    gone: bool = False

    @property
    def accepted(self) -> bool:
        return self.error_class is None


ACCEPTED = Answer()

NOT_SENT = Answer("not_sent", "an earlier message of the batch failed")
"""The answer for a message of a batch that was not sent, since an earlier one of its lane failed. It stays due, and
this does not count as an attempt.
"""

UNANSWERED = Answer("timeout", "no answer in time")
"""The answer of `send_batch` for a message that was sent when a timeout or a stop ended the wait for its answer, if
others were answered. It may have been accepted.
"""


class DeliveryRejected(Exception):
    """The destination will never accept this message (too large, malformed). It becomes a dead letter at once."""


class NotAccepted(Exception):
    """The destination works but did not accept this message now (no queue is bound, a stream is full). It is retried
    on the same connection.
    """


def excerpt(text: str) -> str:
    """The part of a text that is stored, with passwords removed from URLs."""
    quiet = without_credentials(text[: 8 * EXCERPT_BYTES])
    return quiet.encode("utf-8", "replace")[:EXCERPT_BYTES].decode("utf-8", "ignore").replace("\x00", "").strip()


def failure(error: BaseException) -> str:
    """A library's error as text for people, with advice where there is any."""
    words = str(error) or type(error).__name__
    return excerpt(f"{certificate_advice(words, 'tls.ca_file')}{type(error).__name__}: {words}")
