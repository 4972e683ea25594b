"""A body's fingerprint: the same for the bytes GitLab posted and for what its hook log shows of them later.

The log keeps the parsed body, not the bytes, and every string that is an e-mail address reads `[REDACTED]` in it
(gitlab-facts, section 2). So the fingerprint is of the body written one way, with e-mail addresses blotted out.
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
"""A whole string that is an address, as Ruby's URI::MailTo::EMAIL_REGEXP (the WHATWG's rule) has it."""


def fingerprint(body: dict[str, Any]) -> str:
    """A SHA-256 of the body, in hexadecimal."""
    try:
        text = orjson.dumps(body, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # an integer beyond 64 bits, or a lone surrogate
        text = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    if b"@" in text:
        text = _EMAIL.sub(b'"' + REDACTED.encode() + b'"', text)
    return hashlib.sha256(text).hexdigest()
