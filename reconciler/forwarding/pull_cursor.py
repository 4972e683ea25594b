"""The cursor of a batch that a consumer has fetched. It names the batch's deliveries, so that nothing has to be kept
of what was handed out: the request that has the cursor acknowledges exactly these.

In it are the time, and for each delivery the difference from the event before and from the sighting before, and its
replays, as numbers of 7 bits a byte. A hash ends it: of all this, the id and the name of the destination (SQLite may
give the id of a removed one to another), and the id of the last event. So a cursor that was cut or belongs to another
destination is refused, and one from before the ledger was restored, if it names events that are not in it any more,
whose numbers others have now.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b

import msgspec

from reconciler.events.times import Millis
from reconciler.ledger.queue.pulled import HandedOut
from reconciler.ledger.storage.ids import LARGEST

LONGEST = 6000
"""How long a cursor may be: it is a part of a URL, and proxies often allow 8 KiB for that."""
_HASH_BYTES = 8
_MOST_BITS = 70

EventId = Callable[[int], str]


class WrongCursor(ValueError):
    """The text is no cursor of this destination."""


class Fetched(msgspec.Struct, frozen=True):
    """What a cursor says: what was handed out, and when."""

    at: Millis
    some: list[HandedOut]


def encoded(fetched: Fetched, destination_id: int, name: str, event_id: EventId) -> str:
    """The cursor of a batch. Its deliveries are in the order of their events."""
    content = bytearray()
    _write(content, fetched.at)
    event = sighting = 0
    for one in fetched.some:
        _write(content, (one.event_id - event) << 1 | (one.replays > 0))
        if one.replays:
            _write(content, one.replays)
        step = one.sighting_id - sighting
        _write(content, step << 1 if step >= 0 else (-step << 1) - 1)
        event, sighting = one.event_id, one.sighting_id
    made = bytes(content) + _hash(bytes(content), fetched.some, destination_id, name, event_id)
    return base64.urlsafe_b64encode(made).decode().rstrip("=")


def decoded(cursor: str, destination_id: int, name: str, event_id: EventId) -> Fetched:
    """What a cursor says. Raises WrongCursor."""
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        made = base64.b64decode(padded, altchars=b"-_", validate=True)
        content, found = made[:-_HASH_BYTES], made[-_HASH_BYTES:]
        fetched = _read(content)
    except (binascii.Error, UnicodeError, ValueError, StopIteration):
        raise WrongCursor(cursor) from None
    if found != _hash(content, fetched.some, destination_id, name, event_id):
        raise WrongCursor(cursor)
    return fetched


def _read(content: bytes) -> Fetched:
    """Raises ValueError or StopIteration if it ends too early."""
    if not content or content[-1] >> 7:
        raise ValueError("it is cut")
    numbers = _numbers(content)
    at, some = Millis(next(numbers)), []
    event = sighting = 0
    for number in numbers:
        event += number >> 1
        replays = next(numbers) if number & 1 else 0
        step = next(numbers)
        sighting += -((step + 1) >> 1) if step & 1 else step >> 1
        if event > LARGEST or not 0 <= sighting <= LARGEST:
            raise ValueError("a number is too large")
        some.append(HandedOut(event, sighting, replays))
    return Fetched(at, some)


def _hash(content: bytes, some: Sequence[HandedOut], destination_id: int, name: str, event_id: EventId) -> bytes:
    last = event_id(some[-1].event_id) if some else ""
    return blake2b(content + f" {destination_id} {name} {last}".encode(), digest_size=_HASH_BYTES).digest()


def _write(content: bytearray, number: int) -> None:
    while number > 0x7F:
        content.append(number & 0x7F | 0x80)
        number >>= 7
    content.append(number)


def _numbers(content: bytes) -> Iterator[int]:
    number = bits = 0
    for byte in content:
        number |= (byte & 0x7F) << bits
        bits += 7
        if bits > _MOST_BITS:
            raise ValueError("a number is too large")
        if not byte >> 7:
            yield number
            number = bits = 0
