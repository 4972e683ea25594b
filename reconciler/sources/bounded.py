"""An answer of GitLab's, or of what stands in its place, may not be larger than memory allows, unpacked."""

from __future__ import annotations

from typing import Any

import requests
from requests.adapters import HTTPAdapter

LARGEST_ANSWER = 128 * 1024 * 1024
"""A page of the hook log has 20 bodies, and GitLab sends none above 25 MB; all of it is usually below one."""
_CHUNK = 64 * 1024


class TooLarge(requests.RequestException):
    """Asking again would bring it again."""


class Bounded(HTTPAdapter):
    """Reads every answer, redirects' and errors' among them, piece by piece, and no more than so much of it."""

    def __init__(self, largest: int = LARGEST_ANSWER) -> None:
        super().__init__()
        self._largest = largest

    def send(self, *arguments: Any, **named: Any) -> requests.Response:
        response = super().send(*arguments, **named)
        pieces, size = [], 0
        for piece in response.iter_content(_CHUNK):
            size += len(piece)
            if size > self._largest:
                response.close()
                raise TooLarge(f"the answer is larger than {self._largest:,} bytes")
            pieces.append(piece)
        # Where requests itself keeps what it has read: it would read without a bound.
        response._content = b"".join(pieces)
        return response


def bounded_session(largest: int = LARGEST_ANSWER) -> requests.Session:
    """A session whose answers are bounded. Packed ones are asked for: they are a tenth of the size on the wire."""
    session = requests.Session()
    for scheme in ("https://", "http://"):
        session.mount(scheme, Bounded(largest))
    return session
