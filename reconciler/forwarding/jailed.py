"""The process that runs the config's templates and JMESPath. An endless loop ends only this process.

It imports little, so that it starts fast and stays small. It reads frames: first the transform, then for each event
the facts and GitLab's body. It answers the transform when it is ready, and each event with its result.
"""

from __future__ import annotations

import contextlib
import gc
import json
import resource
import signal
import socket
import struct
from collections.abc import Callable
from io import BufferedReader
from typing import Any

from reconciler.events.fields import as_json, parsed

CPU_S = 2.0
"""The CPU time that one event may take. Not wall time, so that a busy machine fails no event."""
WALL_S = 60
"""The wall time after which it ends in any case: the process that started it may be gone."""
MEMORY = 384 * 1024 * 1024
"""The memory that it may use in any case. MEMORY_TIMES times the body's length comes on top: a body of small objects
takes 40 times its length when parsed, and orjson needs as much again, or more, to write it.
"""
MEMORY_TIMES = 128
OUTPUT = 64 * 1024 * 1024

MADE, FAILED, READY = 0, 1, 2
HEAD = struct.Struct(">BQ")
"""The head of a frame: what it is, and its length."""

Make = Callable[[dict[str, Any]], bytes]


class _Failed(Exception):
    """This event can't be transformed. The message says why."""


def main() -> None:
    """Transform the events that arrive at stdin, which is a socket, until its other end is closed."""
    _limit(resource.RLIMIT_CORE, 0)
    memory = MEMORY
    _limit(resource.RLIMIT_AS, memory)
    with socket.socket(fileno=0) as line, line.makefile("rb") as stream, contextlib.suppress(EOFError, OSError):
        language = read(stream)[1].decode()
        make = _MAKERS[language](read(stream)[1].decode())
        line.sendall(frame(READY, b""))
        while True:
            event, payload = read(stream)[1], read(stream)[1]
            if memory_for(payload) > memory:  # never lowered again: not all memory may have been returned
                memory = memory_for(payload)
                _limit(resource.RLIMIT_AS, memory)
            line.sendall(frame(*_answer(make, event, payload, memory)))


def memory_for(payload: bytes) -> int:
    """How much memory an event with this body may use, in bytes."""
    return MEMORY + MEMORY_TIMES * len(payload)


def too_little(memory: int) -> str:
    """The error text if the memory is not enough."""
    return f"it needs more than {memory >> 20} MiB of memory"


def _limit(what: int, most: int) -> None:
    with contextlib.suppress(OSError, ValueError):  # the system does not know this limit, or allows less
        resource.setrlimit(what, (most, resource.getrlimit(what)[1]))


def read(stream: BufferedReader) -> tuple[int, bytes]:
    """Read the next frame. Raises EOFError if there is none."""
    what, length = HEAD.unpack(_exactly(stream, HEAD.size))
    return what, _exactly(stream, length)


def frame(what: int, content: bytes) -> bytes:
    """A frame as bytes."""
    return HEAD.pack(what, len(content)) + content


def _exactly(stream: BufferedReader, length: int) -> bytes:
    content = stream.read(length)
    if len(content) < length:
        raise EOFError
    return content


def _answer(make: Make, event: bytes, payload: bytes, memory: int) -> tuple[int, bytes]:
    signal.alarm(WALL_S)
    signal.setitimer(signal.ITIMER_PROF, CPU_S)  # its signal is not caught: the kernel ends this process
    try:
        gc.disable()  # parsing makes no garbage, and collecting over a million objects would take longer than parsing
        body = parsed(payload.decode())
        gc.enable()
        made = make({"body": body, "event": json.loads(event)})
        if len(made) > OUTPUT:
            raise _Failed(_TOO_LARGE)
    except _Failed as error:
        return FAILED, str(error)[:1000].encode("utf-8", "replace")
    except MemoryError:
        return FAILED, too_little(memory).encode()
    except Exception as error:  # for example a body too deep: it would fail every time
        return FAILED, f"{type(error).__name__}: {error}"[:1000].encode("utf-8", "replace")
    else:
        return MADE, made
    finally:
        gc.enable()
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)


_TOO_LARGE = f"it makes more than {OUTPUT >> 20} MiB"


def _template(text: str) -> Make:
    from jinja2 import TemplateError

    from reconciler.config.templates import compiled_template

    compiled = compiled_template(text)

    def make(seen: dict[str, Any]) -> bytes:
        parts, length = [], 0
        try:
            for part in compiled.generate(seen):
                parts.append(part)
                length += len(part)
                if length > OUTPUT:
                    raise _Failed(f"template: {_TOO_LARGE}")
            return "".join(parts).encode()
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
            raise _Failed(f"template: {error}") from None

    return make


def _jmespath(text: str) -> Make:
    import jmespath
    from jmespath.exceptions import JMESPathError

    compiled = jmespath.compile(text)

    def make(seen: dict[str, Any]) -> bytes:
        try:
            return as_json(compiled.search(seen)).encode()
        except JMESPathError as error:
            raise _Failed(f"jmespath: {str(error).splitlines()[0]}") from None

    return make


_MAKERS: dict[str, Callable[[str], Make]] = {"template": _template, "jmespath": _jmespath}
