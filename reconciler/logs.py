"""Logs: events on stderr, readable on a terminal and JSON elsewhere. Nothing waits for them, or fails for them.

An exception is logged as a traceback without the frames' local variables: they hold headers, tokens and bodies.
What others wrote reaches a terminal only in a form that it can't act on.
"""

from __future__ import annotations

import json
import logging
import os
import select
import stat
import sys
import threading
from collections.abc import Mapping
from typing import Any

import structlog
from structlog.typing import EventDict, Processor

from reconciler.events.texts import one_line, printable, without_credentials

PENDING_BYTES = 256 * 1024
"""How much is kept of what can't be written at this moment. What comes then is dropped, and counted."""

TEXT_LENGTH = 2000
"""Of each text in a line, in characters: an answer of 100 KB in an error's text must not make a line of 100 KB."""
FEW = 5
"""A list of so few is not cut, but what is in it."""
TRACEBACK_LENGTH = 16_000
LINE_BYTES = 4096
"""At most this many in a line of JSON: several processes share a pipe, where a longer write would mix with theirs
(PIPE_BUF, on Linux).
"""


class LogStream:
    """A text stream on a file descriptor that never raises and never waits.

    A reader that is gone, a full disk, a pipe that nobody empties: none of them may stop a service. `None` takes
    everything and keeps nothing.
    """

    def __init__(self, file: int | None) -> None:
        self._file = file
        self._pending = b""
        self._dropped = 0
        self._lock = threading.Lock()

    def write(self, text: str) -> int:
        """Take a text; it is written as far as that goes."""
        with self._lock:
            made = text.encode("utf-8", "backslashreplace")
            if self._file is None or len(self._pending) + len(made) > PENDING_BYTES:
                self._dropped += text.count("\n")
            else:
                self._pending += made
        return len(text)

    def flush(self) -> None:
        """Write what can be written without waiting."""
        with self._lock:
            self._write_pending()
            if self._dropped and not self._pending and self._file is not None:
                self._pending = f'{{"event": "log lines were dropped", "lines": {self._dropped}}}\n'.encode()
                self._dropped = 0
                self._write_pending()

    def isatty(self) -> bool:
        """Whether a person reads."""
        return self._file is not None and os.isatty(self._file)

    def _write_pending(self) -> None:
        while self._pending and self._file is not None and _is_writable(self._file):
            try:
                written = os.write(self._file, self._pending[: self._whole_lines()])
            except OSError:
                return
            self._pending = self._pending[written:]

    def _whole_lines(self) -> int:
        """How many bytes can be written at once that end with a line."""
        return self._pending.rfind(b"\n", 0, select.PIPE_BUF) + 1 or select.PIPE_BUF


def _is_writable(file: int) -> bool:
    """Whether PIPE_BUF bytes can be written without waiting (POSIX says so of pipes; files are always ready)."""
    poll = select.poll()
    try:
        poll.register(file, select.POLLOUT)
        return any(event & select.POLLOUT for _, event in poll.poll(0))
    except OSError:
        return False


def stderr() -> LogStream:
    """The process' standard error, if it has one."""
    try:
        return LogStream(None if sys.stderr is None else _never_waiting(sys.stderr.fileno()))
    except (OSError, ValueError):
        return LogStream(None)


def _never_waiting(file: int) -> int:
    """A pipe, opened again so that no write waits: another process may fill it after this one has looked (Linux)."""
    if not stat.S_ISFIFO(os.fstat(file).st_mode):
        return file
    try:
        return os.open(f"/proc/self/fd/{file}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return file


def _quiet(_logger: object, _name: str, event: EventDict) -> EventDict:
    """No text longer than a person reads, and no URL with its password or token."""
    return {key: _without_secrets(value, longest=_longest(key)) for key, value in event.items()}


def _longest(key: str) -> int:
    return TRACEBACK_LENGTH if key == "exception" else TEXT_LENGTH


def _without_secrets(value: Any, *, longest: int = TEXT_LENGTH) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(key): _without_secrets(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_without_secrets(one) for one in value]
    text = value if isinstance(value, str) else repr(value)
    if len(text) > longest:
        half = longest // 2
        text = f"{text[:half]} … ({len(text):,} characters) … {text[-half:]}"
    return without_credentials(text)


def _in_short(_logger: object, _name: str, made: Any) -> str:
    """The line of JSON with its longest texts and lists cut until it fits into one write."""
    line = str(made)
    while len(line.encode("utf-8", "backslashreplace")) >= LINE_BYTES:
        shorter = json.dumps(_shorter(json.loads(line)))
        if len(shorter) >= len(line):
            return json.dumps({"event": line[:TEXT_LENGTH], "unshown": "too long"})
        line = shorter
    return line


def _shorter(value: Any) -> Any:
    """Without a part of what is longest in it. Of a list of frames the last ones stay: they are where it happened."""
    if isinstance(value, dict) and value:
        longest = max(value, key=lambda key: len(json.dumps(value[key])))
        return value | {longest: _shorter(value[longest])}
    if isinstance(value, list) and len(value) > FEW:
        return value[len(value) // 4 or 1 :]
    if isinstance(value, list) and value:
        longest = max(range(len(value)), key=lambda at: len(json.dumps(value[at])))
        return [_shorter(one) if at == longest else one for at, one in enumerate(value)]
    if isinstance(value, str) and len(value) > 2 * FEW:
        part = len(value) * 3 // 8
        return f"{value[:part]}…{value[-part:]}"
    return value


def _for_a_terminal(_logger: object, _name: str, event: EventDict) -> EventDict:
    """Every value in a form that a terminal can't act on; only a traceback has several lines."""
    return {key: printable(value) if key == "exception" else _in_one_line(value) for key, value in event.items()}


def _in_one_line(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    return one_line(value if isinstance(value, str) else repr(value))


def _never_raising(*processors: Processor) -> Processor:
    """All of them in a row. A value that can't be shown costs its line the details, and nothing else."""

    def render(logger: object, name: str, event: EventDict) -> str:
        what = str(event.get("event"))
        made: Any = event
        try:
            for processor in processors:
                made = processor(logger, name, made)
            return str(made)
        except Exception as error:  # logging must not raise: the line says less
            shown = without_credentials(what[:TEXT_LENGTH])
            return json.dumps({"event": shown, "level": name, "unshown": type(error).__name__})

    return render


def set_up(level: str = "info") -> None:
    """Send our own and the libraries' logs to stderr, one line an event."""
    stream = stderr()
    on_terminal = stream.isatty()
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if on_terminal:
        console = structlog.dev.ConsoleRenderer(
            colors="NO_COLOR" not in os.environ, exception_formatter=structlog.dev.plain_traceback
        )
        safe = _never_raising(structlog.processors.format_exc_info, _quiet, _for_a_terminal, console)
    else:
        # Without local variables: they may hold secrets, and whole bodies.
        tracebacks = structlog.processors.ExceptionRenderer(
            structlog.tracebacks.ExceptionDictTransformer(show_locals=False, max_frames=20)
        )
        safe = _never_raising(tracebacks, _quiet, structlog.processors.JSONRenderer(), _in_short)
    structlog.configure(
        processors=[*shared, safe],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(stream),  # type: ignore[arg-type] # all that it asks for is there
        cache_logger_on_first_use=True,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, safe],
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
