"""Builds the requests of HTTP destinations: headers as bytes, and redirects that keep method and body."""

from __future__ import annotations

import re
from collections.abc import Iterable

import httpx

_NO_HEADER = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


def post(url: httpx.URL, headers: list[tuple[bytes, bytes]], body: bytes) -> httpx.Request:
    """A POST with these headers and a Host. httpx adds no others to a request that is given a stream."""
    if not any(name.lower() == b"host" for name, _ in headers):
        headers = [(b"Host", url.netloc), *headers]
    return httpx.Request("POST", url, headers=headers, stream=httpx.ByteStream(body))


def header_bytes(value: str) -> bytes:
    """A header's value as the bytes that GitLab sent: the receiver reads them as Latin-1, the hook log gives text.

    Raises ValueError for a value that no header may have.
    """
    try:
        made = value.encode("latin-1")
    except UnicodeEncodeError:
        made = value.encode("utf-8")
    if _NO_HEADER.search(made):
        raise ValueError("a header value contains a line break or another control character")
    return made.strip()


def keeps_body(response: httpx.Response) -> bool:
    """Whether an answer is a redirect that keeps method and body."""
    return response.status_code in (307, 308) and "Location" in response.headers


def redirected(
    request: httpx.Request, response: httpx.Response, body: bytes, *, withheld: Iterable[str]
) -> httpx.Request:
    """The request that follows a redirect. To another host it has neither the `withheld` headers nor a login.

    Raises httpx.InvalidURL.
    """
    url = request.url.join(response.headers["Location"])
    headers = request.headers.copy()
    if (url.scheme, url.netloc) != (request.url.scheme, request.url.netloc):
        for name in (*withheld, "Authorization", "Host"):
            headers.pop(name, None)
    return post(url, headers.raw, body)
