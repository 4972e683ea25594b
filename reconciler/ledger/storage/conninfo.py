"""How to connect to PostgreSQL: a server that is gone, or a network that is dead, is noticed within seconds."""

from __future__ import annotations

from psycopg.conninfo import conninfo_to_dict, make_conninfo

CONNECT_S = 5
SILENT_S = 8
"""A server that acknowledges nothing for so long is gone."""

_USUAL: dict[str, str | int] = {
    "application_name": "gitlab-reconciler",
    "client_encoding": "UTF8",
    "connect_timeout": CONNECT_S,
    "keepalives": 1,
    "keepalives_idle": 3,
    "keepalives_interval": 1,
    "keepalives_count": 5,
    "tcp_user_timeout": SILENT_S * 1000,
}


def conninfo(url: str, **more: str) -> str:
    """What libpq is given. What the URL says itself comes first. Raises psycopg.Error if it is no URL of libpq's."""
    return make_conninfo("", **{**_USUAL, **more, **conninfo_to_dict(url)})
