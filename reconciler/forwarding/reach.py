"""Checks that something listens at an address: connects and closes again. Sends nothing but a TLS handshake."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Sequence

CLOSE_PATIENCE_S = 1.0
_NO_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE")
"""OpenSSL's reasons if the other side does not speak TLS."""


class Unreachable(Exception):
    """The address can't be reached. The message says why and, if possible, what to do."""


async def reach(host: str, port: int, *, addresses: Sequence[str] = (), tls: ssl.SSLContext | None = None) -> str:
    """Connect to the first of the addresses that accepts; to the host if there are none. Returns what was found.

    Raises Unreachable.
    """
    target = f"{bracketed(host)}:{port}"
    failure = Unreachable("the name resolved to no address")
    for address in addresses or (host,):
        try:
            _, writer = await asyncio.open_connection(
                address, port, ssl=tls, server_hostname=None if tls is None else host
            )
        except (OSError, UnicodeError) as error:
            failure = Unreachable(f"{target}: {_explanation(error)}")
            continue
        writer.close()
        with contextlib.suppress(OSError, TimeoutError):  # an error while closing does not matter
            await asyncio.wait_for(writer.wait_closed(), CLOSE_PATIENCE_S)
        return f"{target} accepts connections" + ("" if tls is None else ", its certificate is valid")
    raise failure


def bracketed(host: str) -> str:
    """A host as it is written before a port."""
    return f"[{host}]" if ":" in host else host


def _explanation(error: OSError | UnicodeError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        advice = "" if "ostname" in error.verify_message else "; `tls.ca_file` names a private CA"
        return f"its certificate is not trusted: {error.verify_message}{advice}"
    if isinstance(error, ssl.SSLError):
        reason = error.reason or str(error)
        return "does not speak TLS" if reason in _NO_TLS else f"the TLS handshake failed: {reason}"
    if isinstance(error, ConnectionRefusedError):
        return "nothing listens there (connection refused)"
    if isinstance(error, ConnectionResetError):
        return "closes the connection at once"
    return f"can't be reached: {getattr(error, 'strerror', None) or error}"
