"""Records of GitLab's API that could not be understood."""

from __future__ import annotations

import msgspec

RAW_CHARS = 4096
"""How much of such a record is kept: enough to see what is wrong with it."""


class Unreadable(msgspec.Struct, frozen=True):
    """A record that could not be understood.

    `record_id` is GitLab's own id, or a hash of the record where it has none. `raw` is the record's JSON, cut to
    `RAW_CHARS`. `error` says what is wrong with it.
    """

    record_id: str
    error: str
    raw: str
