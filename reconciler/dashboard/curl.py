"""The request to an HTTP destination as a command for a shell."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator
from urllib.parse import urlsplit

import msgspec

from reconciler.config.destination_kinds import find_kind
from reconciler.config.models import Config
from reconciler.events.texts import without_credentials
from reconciler.forwarding.kinds.http import Http
from reconciler.forwarding.rendering import Renderer
from reconciler.ledger.queue.deliveries import outgoing
from reconciler.ledger.storage.database import Database

LARGEST = 128_000
"""The most bytes of a command. Linux allows 128 KiB for one argument of a program."""
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_SECRET = re.compile(r"(?i)authorization|cookie|token|secret|password|signature|api-?key")
_FOR_CURL = ("content-length", "host", "transfer-encoding", "connection")


class Curl(msgspec.Struct, frozen=True):
    """A command; or why there is none. `left_out` are headers whose values are secret, and such parts of the URL.
    `is_too_large`: the body can be downloaded instead.
    """

    command: str | None
    why: str | None = None
    left_out: list[str] = []
    is_too_large: bool = False


def curl_of(db: Database, config: Config, event_id: int, name: str) -> Curl:
    """What would be sent now to an HTTP destination of the config for an event that the ledger has."""
    wanted = next((one for one in config.destinations if one.name == name), None)
    kind = None if wanted is None else find_kind(wanted.kind)(wanted)
    if wanted is None or not isinstance(kind, Http):
        return Curl(None, "There is no HTTP destination of this name in the config.")
    with Renderer(db, config) as renderer:
        found = renderer.render(wanted, outgoing(db, event_id), attempt=1)
    if found.error is not None:
        return Curl(None, f"It can’t be sent as the destination is configured now: {found.error}")
    if "\0" in found.body:
        return Curl(None, "The body contains a NUL character, which no command can contain.")
    secret = {one.lower() for one in kind.secret_headers}
    left_out = [one for one in found.headers if one.lower() in secret or _SECRET.search(one)]
    shown = [(one, value) for one, value in found.headers.items() if one not in left_out]
    made = command(found.to, shown, found.body)
    if (size := len(made.encode("utf-8", "replace"))) > LARGEST:
        return Curl(None, f"The command would be too large to run: it has {size:,} bytes.", is_too_large=True)
    return Curl(made, left_out=[*left_out, *_left_out_of(getattr(wanted, "url", found.to), found.to)])


def _left_out_of(url: str, shown: str) -> Iterator[str]:
    """The parts of a URL that are not in the one that is shown."""
    whole, rest = urlsplit(url), urlsplit(without_credentials(shown))
    if "@" in whole.netloc:
        yield "the URL’s login"
    if whole.path != rest.path:
        yield "a part of the URL’s path (…)"
    if whole.query != rest.query:
        yield "the URL’s query"


def command(url: str, headers: Iterable[tuple[str, str]], body: str) -> str:
    """A command that posts a body. Its texts have no NUL characters."""
    parts = ["curl --globoff --request POST", f"--url {quoted(without_credentials(url))}"]
    given = [(name, value) for name, value in headers if _NAME.fullmatch(name) and name.lower() not in _FOR_CURL]
    if "content-type" not in [name.lower() for name, _ in given]:
        given.append(("Content-Type", ""))  # or curl says that it is a form
    for name, value in given:
        parts.append(f"--header {quoted(f'{name}: {value}' if value.strip() else f'{name}:')}")
    # Not --data: it would read a file if the body began with an @.
    parts.append(f"--data-raw {quoted(body)}")
    return " \\\n  ".join(parts)


def quoted(text: str) -> str:
    """A text as one word of bash, zsh or ksh, made of characters that can be pasted into a terminal: others, which a
    terminal or a person could take for something else, are written as their bytes in octal.
    """
    if text.isprintable():
        return shlex.quote(text)
    return "$'" + "".join(_escaped(one) for one in text) + "'"


def _escaped(one: str) -> str:
    if one in "'\\":
        return f"\\{one}"
    if one == "\n":
        return "\\n"
    if one.isprintable():
        return one
    return "".join(f"\\{byte:03o}" for byte in one.encode("utf-8", "replace"))
