"""Computes a body's fingerprint: the same for the bytes that GitLab posted and for its hook log's copy of them.

The log keeps the parsed body, not the bytes, and every string that is an e-mail address reads `[REDACTED]` in it
(docs/gitlab.md, "The webhook's log"). So the fingerprint is of the body in one canonical form, with e-mail addresses
redacted.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

import orjson

REDACTED = "[REDACTED]"

_LABEL = rb"[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
_EMAIL = re.compile(rb'"[a-zA-Z0-9.!#$%&\'*+/=?^_`{|}~-]+@' + _LABEL + rb"(?:\." + _LABEL + rb')*"')
"""A whole string that is an e-mail address, by Ruby's URI::MailTo::EMAIL_REGEXP (the WHATWG's rule)."""


def fingerprint(body: dict[str, Any]) -> str:
    """A SHA-256 of the body, in hexadecimal."""
    try:
        text = orjson.dumps(body, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # an integer beyond 64 bits, a lone surrogate, or deeper than orjson writes
        text = _written(body).encode()
    if b"@" in text:
        text = _EMAIL.sub(b'"' + REDACTED.encode() + b'"', text)
    return hashlib.sha256(text).hexdigest()


def _written(value: Any) -> str:
    """As `json.dumps` writes it, with sorted keys, at any depth: it does not recurse."""
    made: list[str] = []
    left: list[tuple[str | None, Any]] = [(None, value)]
    while left:
        text, one = left.pop()
        if text is not None:
            made.append(text)
        elif isinstance(one, dict) and one:
            left.append(("}", None))
            for number, (key, inner) in enumerate(sorted(one.items(), reverse=True), 1 - len(one)):
                left += [(None, inner), (f"{',' if number else ''}{json.dumps(key)}:", None)]
            made.append("{")
        elif isinstance(one, list) and one:
            left.append(("]", None))
            for number, inner in enumerate(reversed(one), 1 - len(one)):
                left += [(None, inner), ("," if number else "", None)]
            made.append("[")
        else:
            made.append(json.dumps(one))
    return "".join(made)
