"""Logs: events on stderr, readable on a terminal and JSON elsewhere. Nothing waits for them, or fails for them."""

from __future__ import annotations

import json
import logging
import os
import select
import sys
import threading
from typing import Any

import structlog

PENDING_BYTES = 256 * 1024
"""How much is kept of what can't be written at this moment. What comes then is dropped, and counted."""

TEXT_LENGTH = 2000
"""Of each text in a line."""


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
                written = os.write(self._file, self._pending[: select.PIPE_BUF])
            except OSError:
                return
            self._pending = self._pending[written:]


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
        return LogStream(None if sys.stderr is None else sys.stderr.fileno())
    except (OSError, ValueError):
        return LogStream(None)


def _shortened(_logger: object, _name: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """An answer of 100 KB inside an error's text must not make a line of 100 KB."""
    short: structlog.typing.EventDict = _short(event)
    return short


def _short(value: Any) -> Any:
    if isinstance(value, str) and len(value) > TEXT_LENGTH:
        return f"{value[:TEXT_LENGTH]}… ({len(value):,} characters)"
    if isinstance(value, dict):
        return {key: _short(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_short(one) for one in value]
    return value


def _never_raising(renderer: structlog.typing.Processor) -> structlog.typing.Processor:
    """A value that can't be shown costs its line the details, and nothing else."""

    def render(logger: object, name: str, event: structlog.typing.EventDict) -> str:
        what = str(event.get("event"))
        try:
            return str(renderer(logger, name, event))
        except Exception as error:
            return json.dumps({"event": what, "level": name, "unshown": type(error).__name__})

    return render


def set_up(level: str = "info") -> None:
    """Send our own and the libraries' logs to stderr, one line an event."""
    stream = stderr()
    on_terminal = stream.isatty()
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(
            colors="NO_COLOR" not in os.environ, exception_formatter=structlog.dev.plain_traceback
        )
        if on_terminal
        else structlog.processors.JSONRenderer()
    )
    safe = _never_raising(renderer)
    # Without local variables: they may hold secrets, and whole bodies.
    tracebacks = structlog.processors.ExceptionRenderer(
        structlog.tracebacks.ExceptionDictTransformer(show_locals=False, max_frames=20)
    )
    errors: list[structlog.typing.Processor] = [] if on_terminal else [tracebacks, _shortened]
    structlog.configure(
        processors=[*shared, *errors, safe],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(stream),  # type: ignore[arg-type] # all that it asks for is there
        cache_logger_on_first_use=True,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *errors, safe],
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
