"""Makes text from outside safe to print, and removes passwords from URLs."""

from __future__ import annotations

import re

_CREDENTIALS = re.compile(r"(?<=://)[^\s/?#\"'<>]*@")
"""User and password of a URL, up to the last `@`: a password may contain one."""
_PARAMETERS = re.compile(
    r"(?i)(?<=[?&])([\w.-]*(?:token|secret|password|signature|api_?key|access_?key))=[^&\s\"'<>#]+"
)


_UNKNOWN_CA = re.compile("self[- ]signed certificate|unable to get local issuer")
_DANGEROUS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
"""Control characters (such as ESC and CSI), zero-width and bidirectional characters, line separators and lone
surrogates: Unicode's categories Cc, Cf, Cs, Zl and Zp, except line ends and tabs."""
_ENDS = re.compile("[\n\t]")


def printable(text: str) -> str:
    r"""Text for a terminal: characters that a terminal acts on or hides are escaped (`\x1b`, `\u202e`).

    Line ends and tabs stay.
    """
    return text if text.isascii() and text.isprintable() else _DANGEROUS.sub(_written_out, text)


def one_line(text: str) -> str:
    r"""Printable text in one line: line ends and tabs are escaped too."""
    return _ENDS.sub(_written_out, printable(text))


def safe_json(text: str) -> str:
    r"""The same JSON value in one line, without characters that a terminal acts on.

    Line ends can only be between values; everything else is in strings, where it may be written as `\uXXXX`.
    """
    return _DANGEROUS.sub(_as_json, json_line(text))


def json_line(text: str) -> str:
    """JSON in one line. Its line ends can only be between values, so they become spaces."""
    return text.replace("\r", " ").replace("\n", " ")


def without_credentials(text: str) -> str:
    """Text without passwords and tokens in URLs, for library errors that quote URLs."""
    if "://" in text:
        text = _CREDENTIALS.sub("…@", text)
    return _PARAMETERS.sub(r"\1=…", text) if "=" in text else text


def certificate_advice(error: str, key: str) -> str:
    """Advice to put before a certificate error about an unknown CA, else empty. `key` names the setting."""
    if _UNKNOWN_CA.search(error):
        return f"its certificate is signed by an unknown CA: if it is your own CA, set {key}: "
    return ""


def pretty_json(text: str) -> str:
    """JSON with a line for each value. Numbers stay as written, and any depth is fine.

    Text that is not JSON is returned unchanged.
    """
    made: list[str] = []
    depth, empty = 0, False
    for found in _TOKEN.finditer(text):
        part = found[0]
        if part in ("{", "["):
            made.append(part)
            depth, empty = depth + 1, True
            continue
        if part in ("}", "]"):
            depth -= 1
            made.append(part if empty else _indent(depth) + part)
            empty = False
            continue
        if empty:
            made.append(_indent(depth))
            empty = False
        if part == ",":
            made.append("," + _indent(depth))
        else:
            made.append(": " if part == ":" else part)
    return "".join(made)


_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+', re.S)
_DEEPEST_INDENT = 40


def _indent(depth: int) -> str:
    return "\n" + "  " * min(depth, _DEEPEST_INDENT)


def _written_out(found: re.Match[str]) -> str:
    code = ord(found[0])
    short = {0x09: "\\t", 0x0A: "\\n", 0x0D: "\\r"}.get(code)
    if short is not None:
        return short
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _as_json(found: re.Match[str]) -> str:
    units = found[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[n]:02x}{units[n + 1]:02x}" for n in range(0, len(units), 2))
