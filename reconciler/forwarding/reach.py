"""Whether something listens at an address: a connection is made, and closed again. Nothing is sent but TLS' own."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Sequence

CLOSE_PATIENCE_S = 1.0
_NO_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE")
"""OpenSSL's reasons where the other side speaks something else."""


class Unreachable(Exception):
    """Nobody can be reached there. The message says why and, where a person can help, what to do."""


async def reach(host: str, port: int, *, addresses: Sequence[str] = (), tls: ssl.SSLContext | None = None) -> str:
    """Connect to the first address that lets us, and say what was found; to the host itself, where none is given.

    Raises Unreachable.
    """
    where, why = f"{bracketed(host)}:{port}", Unreachable("it has no address")
    for address in addresses or (host,):
        try:
            _, writer = await asyncio.open_connection(
                address, port, ssl=tls, server_hostname=None if tls is None else host
            )
        except (OSError, UnicodeError) as error:
            why = Unreachable(f"{where}: {_words(error)}")
            continue
        writer.close()
        with contextlib.suppress(OSError, TimeoutError):  # how it ends is of no interest
            await asyncio.wait_for(writer.wait_closed(), CLOSE_PATIENCE_S)
        return f"{where} answers" + ("" if tls is None else ", its certificate is good")
    raise why


def bracketed(host: str) -> str:
    """A host as it stands before a port."""
    return f"[{host}]" if ":" in host else host


def _words(error: OSError | UnicodeError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        advice = "" if "ostname" in error.verify_message else "; `tls.ca_file` names a private CA"
        return f"its certificate is not to be trusted: {error.verify_message}{advice}"
    if isinstance(error, ssl.SSLError):
        reason = error.reason or str(error)
        return "does not speak TLS there" if reason in _NO_TLS else f"TLS does not come about: {reason}"
    if isinstance(error, ConnectionRefusedError):
        return "nothing listens there (connection refused)"
    if isinstance(error, ConnectionResetError):
        return "closes the connection at once"
    return f"can't be reached: {getattr(error, 'strerror', None) or error}"
