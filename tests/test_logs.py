"""Logs: what is written where, without waiting, without secrets, and never without end."""

from __future__ import annotations

import ast
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from reconciler import logs
from reconciler.logs import LINE_BYTES, PENDING_BYTES, LogStream

SCRIPT = """
import logging, structlog
from reconciler import logs
logs.set_up()
log = structlog.get_logger("x")

class Unshowable:
    def __repr__(self):
        raise RuntimeError("never")

def fail(token):
    raise ValueError("long " * 10_000)

log.info("plain", number=1, text="\\ud800")
log.info("odd", value=Unshowable())
for one in (log, logging.getLogger("library")):
    try:
        fail("glpat-secret")
    except ValueError:
        one.exception("failed")
log.info("last")
"""

ROOT = Path(__file__).parents[1]
LEVELS = ("debug", "info", "warning", "error", "exception", "log_limited")


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    yield reader, writer
    for one in (reader, writer):
        os.close(one)


def test_every_line_is_json_that_ends() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["event"] for line in lines] == ["plain", "odd", "failed", "failed", "last"]
    assert lines[1]["unshown"] == "RuntimeError"
    for line in lines[2:4]:
        assert line["exception"][0]["frames"][-1]["name"] == "fail"
    assert max(map(len, done.stderr.splitlines())) < 4000
    assert "glpat-secret" not in done.stderr


def test_what_can_t_be_written_now_is_written_later_and_what_is_too_much_is_counted(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    stream = LogStream(writer)
    count = 4 * PENDING_BYTES // 1000
    for number in range(count):  # nobody reads: the pipe takes a part, memory another, the rest is dropped
        stream.write(f"{number:0999}\n")
        stream.flush()
    got = b""
    for _ in range(count):
        try:
            got += os.read(reader, 65536)
        except BlockingIOError:
            stream.flush()
    *lines, said = got.decode().splitlines()
    assert [int(line) for line in lines] == list(range(len(lines)))
    assert json.loads(said) == {"event": "log lines were dropped", "lines": count - len(lines)}
    assert PENDING_BYTES // 1000 <= len(lines) < count


def test_a_reader_that_is_gone_and_a_file_that_is_closed() -> None:
    reader, writer = os.pipe()
    stream = LogStream(writer)
    os.close(reader)
    for _ in range(1000):
        stream.write("x" * 100 + "\n")
        stream.flush()
    os.close(writer)
    stream.write("x\n")
    stream.flush()
    LogStream(None).write("x\n")
    LogStream(None).flush()


def test_it_is_what_structlog_and_logging_want(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(logs.stderr(), LogStream)
    monkeypatch.setattr(sys, "stderr", None)
    stream = logs.stderr()
    structlog.PrintLogger(stream).msg("x")  # type: ignore[arg-type]  # all that it needs of a file is there
    logging.StreamHandler(stream).emit(logging.makeLogRecord({"msg": "x"}))


PROCESSES = """
import os, structlog
from reconciler import logs
logs.set_up()
log = structlog.get_logger("x")
os.fork()
os.fork()

def deep(left):
    if left:
        deep(left - 1)
    raise ValueError("ä" * 3000)

for number in range(100):
    log.error("long", number=number, error="y" * 1900, other=["z" * 1900] * 3)
    log.error("short", number=number)
    try:
        deep(30)
    except ValueError:
        log.exception("failed", number=number)
os._exit(0)
"""


def test_lines_of_several_processes_never_mix_on_a_pipe() -> None:
    done = subprocess.run([sys.executable, "-c", PROCESSES], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    dropped = sum(line["lines"] for line in lines if line["event"] == "log lines were dropped")
    assert len([line for line in lines if "number" in line]) + dropped <= 1200
    assert {"long", "short", "failed"} <= {line["event"] for line in lines}
    assert max(len(line.encode()) for line in done.stderr.splitlines()) < LINE_BYTES
    [failed, *_] = [line for line in lines if line["event"] == "failed"]
    assert failed["exception"][0]["exc_type"] == "ValueError"
    assert failed["exception"][0]["frames"][-1]["name"] == "deep"


def test_a_cause_is_always_called_reason() -> None:
    """With two names for it, a search of the log finds half."""
    found = [
        f"{file.relative_to(ROOT)}:{call.lineno}"
        for package in ("reconciler", "receiver")
        for file in sorted((ROOT / package).rglob("*.py"))
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in LEVELS
        if any(keyword.arg == "why" for keyword in call.keywords)
    ]
    assert found == []
