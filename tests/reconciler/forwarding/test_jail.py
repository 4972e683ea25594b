"""Transforms that loop or grow without end: the real process, its limits, and its end."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest

from reconciler.config.destinations import Transform
from reconciler.events import times
from reconciler.events.sighting import Summary
from reconciler.forwarding.formats import Formatter
from reconciler.forwarding.jail import TransformFailed
from reconciler.forwarding.kinds.http import HttpDestination
from reconciler.forwarding.transform import Transformer, make_transform
from reconciler.ledger.queue.deliveries import Outgoing, Queued, Ready
from tests.conftest import MakeService
from tests.support.service import until
from tests.support.waiting import until as until_in_loop

LOOP = "{% for i in range(99999) %}{% for k in range(99999) %}{% endfor %}{% endfor %}"
GROWTH = "{% for i in range(99999) %}{% for k in range(99999) %}" + "x" * 99 + "{% endfor %}{% endfor %}"
POISON = [
    ("template", LOOP, "it takes more than 2 s of CPU time"),
    ("template", "{{ 'a' * 10**9 }}", "it needs more than 384 MiB of memory"),
    ("template", "{{ 'a' | center(10**10) }}", "it needs more than 384 MiB of memory"),
    ("template", GROWTH, "it makes more than 64 MiB"),
    ("jmespath", "to_string(@" + " | [@, @]" * 40 + ")", "it takes more than 2 s of CPU time"),
    ("jmespath", "@" + " | [@, @]" * 40, "it needs more than 384 MiB of memory"),
]


def children() -> list[psutil.Process]:
    return [one for one in psutil.Process().children() if _is_jail(one)]


def _is_jail(process: psutil.Process) -> bool:
    try:
        return "reconciler.forwarding.jailed" in " ".join(process.cmdline())
    except psutil.Error:
        return False


@pytest.fixture
def echo() -> Iterator[Transformer]:
    with closing(make_transform(Transform(template="{{ body.n }} of {{ event.kind }}"))) as make:
        yield make


@pytest.mark.parametrize(("language", "text", "says"), POISON)
def test_one_without_end_fails_with_words(language: str, text: str, says: str) -> None:
    with closing(make_transform(Transform.model_validate({language: text}))) as make:
        with pytest.raises(TransformFailed, match=says):
            make({"kind": "push"}, "{}")
        ended = [one for one in psutil.Process().children() if one.status() == psutil.STATUS_ZOMBIE]
        assert ended == []  # they were waited for


@pytest.mark.parametrize(("text", "poison"), [(LOOP, 1), ("{{ 'a' * 10**9 }}", 1), (GROWTH, 1)])
def test_the_next_event_is_transformed(text: str, poison: int) -> None:
    template = "{% if body.n == " + str(poison) + " %}" + text + "{% endif %}{{ body.n }}"
    with closing(make_transform(Transform(template=template))) as make:
        for n in range(3):
            if n == poison:
                with pytest.raises(TransformFailed):
                    make({}, json.dumps({"n": n}))
            else:
                assert make({}, json.dumps({"n": n})) == str(n).encode()


def test_it_starts_with_the_first_event_and_serves_all(echo: Transformer) -> None:
    assert children() == []
    assert echo({"kind": "push"}, '{"n": 1}') == b"1 of push"
    [process] = children()
    assert echo({"kind": "note"}, '{"n": 2}') == b"2 of note"
    assert children() == [process]


def test_one_that_was_killed_is_no_event_s_fault(echo: Transformer) -> None:
    for _ in range(2):
        assert echo({"kind": "push"}, '{"n": 1}') == b"1 of push"
        [process] = children()
        process.kill()
    assert echo({"kind": "push"}, '{"n": 1}') == b"1 of push"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_one_that_is_ended_from_outside_at_every_try_is_tried_again_later(how: signal.Signals) -> None:
    """Memory may be short for a while: the kernel ends what it finds."""
    with closing(make_transform(Transform(template="{% if body.n %}" + LOOP + "{% endif %}ready"))) as make:
        asking = ThreadPoolExecutor(1)
        answer = asking.submit(make, {}, '{"n": 1}')
        ended: set[int] = set()

        def end_one() -> bool:
            for process in children():
                if process.pid not in ended and process.cpu_times().user > 1:  # it started long ago, and loops
                    ended.add(process.pid)
                    process.send_signal(how)
            return answer.done()

        until(end_one)
        assert isinstance(answer.exception(), OSError)
        assert len(ended) == 2
        assert make({}, '{"n": 0}') == b"ready"
        asking.shutdown()


def test_one_that_ends_before_it_is_ready_is_no_event_s_fault(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, echo: Transformer
) -> None:
    """Libraries that are just being replaced, say, or no memory to load them into."""
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    with monkeypatch.context() as patched:
        patched.setattr(sys, "executable", str(broken))
        with pytest.raises(OSError, match="does not start: exit code 1"):
            echo({"kind": "push"}, '{"n": 1}')
    assert echo({"kind": "push"}, '{"n": 1}') == b"1 of push"


@pytest.mark.parametrize("filling", ["{}", "[]", '{"":[]}'])
def test_bodies_of_many_small_things_are_transformed(filling: str) -> None:
    """The receiver takes 25 MiB; read, they are many times as large."""
    large = f'{{"things": [{f"{filling}," * (13_000_000 // (len(filling) + 1))}0], "n": 1}}'
    with closing(make_transform(Transform(jmespath="body.[n, things[-1]]"))) as make:
        assert make({}, large) == b"[1,0]"
        assert make({}, '{"n": 2, "things": []}') == b"[2,null]"
    with closing(make_transform(Transform(jmespath="body.[n, things]"))) as make:
        assert len(make({}, large)) > 13_000_000


def test_text_from_outside_comes_through(echo: Transformer) -> None:
    large = "1" * 30
    assert (
        echo({"kind": "n\u00f6te \x1b"}, f'{{"n": {large}, "\\ud800": "\\ud800"}}')
        == f"{large} of n\u00f6te \x1b".encode()
    )
    with pytest.raises(TransformFailed):
        echo({"kind": "\ud800"}, '{"n": 1}')  # what can't be sent
    deep = "[" * 5000 + "]" * 5000
    with pytest.raises(TransformFailed):
        echo({"kind": "x"}, f'{{"n": {deep}}}')
    assert echo({"kind": "push"}, '{"n": 1}') == b"1 of push"


def test_it_has_no_secrets_about(echo: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITLAB_TOKEN", "glpat-secret")
    echo({"kind": "push"}, '{"n": 1}')
    [process] = children()
    assert "glpat-secret" not in process.environ().values()
    assert {Path(one.path).suffix for one in process.open_files()} <= {".so"}


def test_where_no_process_is_to_be_had_the_event_is_not_at_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried again: file descriptors, or memory, may be short for a while."""
    template = {"transform": {"template": "{{ body.n }}"}}
    destination = HttpDestination.model_validate({"name": "d", "url": "https://x", **template})
    event = Outgoing(1, "2026-11-24T10:00:00.000Z", "x", 1, None, {}, '{"n": 1}', Summary(kind="push"))
    with closing(Formatter(destination, event_id=str, gitlab_url="https://x")) as formatter:
        with monkeypatch.context() as patched:
            patched.setattr(sys, "executable", "/nowhere/python")
            with pytest.raises(OSError, match="nowhere"):
                formatter.message(event, attempt=1, now=times.now())
        assert formatter.message(event, attempt=2, now=times.now()).body == b"1"


def test_closing_ends_a_loop() -> None:
    make = make_transform(Transform(template=LOOP))
    failed: list[BaseException] = []

    def ask() -> None:
        try:
            make({}, "{}")
        except Exception as error:
            failed.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    until(lambda: bool(children()))
    make.close()
    asking.join(30)
    assert failed
    assert children() == []


async def test_the_event_loop_goes_on_while_one_loops() -> None:
    destination = HttpDestination.model_validate({"name": "d", "url": "https://x", "transform": {"template": LOOP}})
    with closing(Formatter(destination, event_id=str, gitlab_url="https://x")) as formatter:
        event = Outgoing(1, "2026-11-24T10:00:00.000Z", "x", 1, None, {}, "{}", Summary(kind="push"))
        one = Ready(Queued("project:1", 1, 0, 0, 0, None, times.now()), event)
        writing = asyncio.create_task(formatter.message_async(one, now=times.now()))
        await until_in_loop(children)  # asked again and again, by this loop
        assert not writing.done()
        with pytest.raises(TransformFailed):
            await writing


def test_the_service_makes_a_dead_letter_of_it_and_goes_on(make_service: MakeService, tmp_path: Path) -> None:
    template = "{% if body.n == 2 %}" + LOOP + '{% endif %}{"n": {{ body.n }}}'
    sent = tmp_path / "sent.ndjson"
    to_file: dict[str, Any] = {"name": "file", "kind": "file", "path": str(sent), "format": "webhook"}
    service = make_service(destinations=[to_file | {"transform": {"template": template}}]).start()
    for n in (1, 2, 3, 4):
        body = json.dumps({"object_kind": "x", "project_id": n % 2, "n": n}).encode()
        assert service.post(body).status_code == 200
    until(lambda: sent.exists() and len(sent.read_text().splitlines()) == 3)
    assert sorted(json.loads(line)["n"] for line in sent.read_text().splitlines()) == [1, 3, 4]
    [letter] = [json.loads(line) for line in service.run("dead-letters", "list", "--json").stdout.splitlines()]
    assert "it takes more than 2 s of CPU time" in letter["last_error"]
    assert letter["attempts"] == 1
    assert "is there an endless loop?" in service.run("destinations", "test", "file").stdout
    assert service.process is not None
    [jail] = [one for one in psutil.Process(service.pid_of("worker")).children() if _is_jail(one)]
    service.kill()
    until(lambda: not jail.is_running() or jail.status() == psutil.STATUS_ZOMBIE)
