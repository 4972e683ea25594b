"""Files, standard output, kinds that other packages bring; and what every kind has in common."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from reconciler.config.destination_kinds import BUILT_IN, find_kind, kind_names
from reconciler.config.load import ConfigError, load
from reconciler.events import times
from reconciler.forwarding.kind import Kind, attempt
from reconciler.forwarding.kinds.file import File, FileDestination, line
from reconciler.forwarding.message import Answer, DeliveryRejected, Message
from tests.conftest import MakeService
from tests.e2e.test_delivery import post, states
from tests.support.service import COMMAND, Service, until

PLUGIN = Path(__file__).parents[2] / "example_plugin"


def message(number: int, body: bytes = b'{"a": 1}') -> Message:
    return Message(f"evt_x_{number}", "1", {}, {"Content-Type": "application/json"}, body, times.now())


def test_every_kind_of_ours_is_there() -> None:
    assert set(BUILT_IN) <= set(kind_names())
    for name in BUILT_IN:
        assert issubclass(find_kind(name), Kind)
        assert find_kind(name).config.model_fields["kind"].default == name


class TestFile:
    def made(self, folder: Path, **keys: Any) -> File:
        return File(FileDestination.model_validate({"name": "f", "path": str(folder / "in/events.ndjson"), **keys}))

    async def test_a_line_an_event(self, tmp_path: Path) -> None:
        file = self.made(tmp_path)
        answers = await asyncio.gather(*(file.send(message(n, b'{"n":%d}' % n)) for n in range(50)))
        assert all(answer.accepted for answer in answers)
        lines = (tmp_path / "in/events.ndjson").read_text().splitlines()
        assert sorted(json.loads(one)["n"] for one in lines) == list(range(50))
        await file.close()

    async def test_rotation_keeps_so_many(self, tmp_path: Path) -> None:
        file = self.made(tmp_path, rotate_size="100B", max_files=3)
        for n in range(60):
            await file.send(message(n, b'{"n":%d}' % n))
        names = sorted(path.name for path in (tmp_path / "in").iterdir() if path.name != "events.ndjson")
        assert names == ["events.ndjson.1", "events.ndjson.2", "events.ndjson.3"]
        newest = [tmp_path / "in/events.ndjson.1", tmp_path / "in/events.ndjson"]
        last = "".join(path.read_text() for path in newest if path.exists())
        assert json.loads(last.splitlines()[-1])["n"] == 59

    async def test_nothing_is_lost_where_all_are_kept(self, tmp_path: Path) -> None:
        file = self.made(tmp_path, rotate_size="50B", max_files=0)
        for n in range(60):
            await file.send(message(n, b'{"n":%d}' % n))
        text = "".join(path.read_text() for path in (tmp_path / "in").iterdir())
        assert sorted(json.loads(one)["n"] for one in text.splitlines()) == list(range(60))

    @pytest.mark.parametrize("torn", [b'{"half', b"x" * 200_000, b'{"n":1}\n{"ha'])
    async def test_a_torn_line_is_cut_off(self, tmp_path: Path, torn: bytes) -> None:
        path = tmp_path / "in/events.ndjson"
        path.parent.mkdir()
        path.write_bytes(torn)
        await self.made(tmp_path).send(message(1, b'{"n":2}'))
        whole = torn[: torn.rfind(b"\n") + 1]
        assert path.read_bytes() == whole + b'{"n":2}\n'

    async def test_a_folder_that_can_t_be_written_is_trouble_not_loss(self, tmp_path: Path) -> None:
        (tmp_path / "in").write_text("a file, no folder")
        answer = await attempt(self.made(tmp_path), message(1), timeout_s=5)
        assert (answer.accepted, answer.rejected, answer.error_class) == (False, False, "connection")

    async def test_a_line_that_was_given_up_before_its_write_began_is_not_written(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        disk_works, sync = threading.Event(), os.fsync

        def hang(file: int) -> None:
            disk_works.wait()
            sync(file)

        monkeypatch.setattr(os, "fsync", hang)
        file = self.made(tmp_path)
        tries = [await attempt(file, message(1), timeout_s=0.05) for _ in range(4)]
        assert [answer.error_class for answer in tries] == ["timeout"] * 4
        disk_works.set()
        assert (await attempt(file, message(1), timeout_s=5)).accepted
        assert len((tmp_path / "in/events.ndjson").read_text().splitlines()) == 2  # the first was being written
        await file.close()

    async def test_a_rotation_that_fails_is_a_warning_and_moves_nothing_twice(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path, rename, is_mounted = tmp_path / "in/events.ndjson", Path.rename, True

        def refuse(old: Path, new: Path) -> Path:
            if is_mounted and old == path:
                raise OSError(errno.EBUSY, "Device or resource busy")
            return rename(old, new)

        monkeypatch.setattr(Path, "rename", refuse)
        path.parent.mkdir()
        for number in (1, 2, 3):
            (tmp_path / f"in/events.ndjson.{number}").write_text(f"{number}\n")
        file = self.made(tmp_path, rotate_size="10B", max_files=3)
        with capture_logs() as logs:
            answers = [await attempt(file, message(n, b'{"n":%d}' % n), timeout_s=5) for n in range(10, 15)]
        assert all(answer.accepted for answer in answers)
        assert [json.loads(one)["n"] for one in path.read_text().splitlines()] == [10, 11, 12, 13, 14]
        assert [(one["log_level"], one["event"]) for one in logs] == [
            ("warning", "file can't be rotated, so it grows")
        ]
        is_mounted = False
        assert (await attempt(file, message(15, b'{"n":15}'), timeout_s=5)).accepted
        kept = {one.name: one.read_text().count("\n") for one in path.parent.iterdir()}
        assert kept == {"events.ndjson.1": 6, "events.ndjson.2": 1, "events.ndjson.3": 1}
        assert (tmp_path / "in/events.ndjson.3").read_text() == "2\n"

    async def test_a_rotation_removes_all_beyond_max_files(self, tmp_path: Path) -> None:
        (tmp_path / "in").mkdir()
        for number in (1, 2, 4, 9):
            (tmp_path / f"in/events.ndjson.{number}").write_text(f"{number}\n")
        await self.made(tmp_path, rotate_size="1B", max_files=4).send(message(0))
        kept = {path.suffix: path.read_text() for path in (tmp_path / "in").iterdir()}
        assert kept == {".1": '{"a": 1}\n', ".2": "1\n", ".3": "2\n", ".4": "4\n"}

    @given(st.recursive(st.none() | st.integers() | st.text(), lambda c: st.lists(c) | st.dictionaries(st.text(), c)))
    @example([10**400, -(2**64), "\ud800", {"\udfff": "\r\n"}])
    def test_any_body_is_one_line(self, value: Any) -> None:
        for indent in (None, 2):
            for end in ("\n", "\r\n", "\r"):
                body = json.dumps(value, indent=indent).replace("\n", end)
                made = line(body.encode())
                assert made.count(b"\n") == 1
                assert b"\r" not in made
                assert made == body.replace("\r", " ").replace("\n", " ").encode() + b"\n"  # every other byte stays
                assert json.loads(made) == value

    def test_a_template_s_many_lines_are_refused(self) -> None:
        assert line(b"plain text") == b"plain text\n"
        with pytest.raises(DeliveryRejected):
            line(b"two\nlines")


def test_a_file_has_every_event_once_the_service_was_killed_often(make_service: MakeService, tmp_path: Path) -> None:
    archive = tmp_path / "archive.ndjson"
    service = make_service(destinations=[{"name": "archive", "kind": "file", "path": str(archive)}])
    sent = 0
    for _ in range(6):
        service.start()
        for _ in range(25):
            post(service, sent % 3, sent)
            sent += 1
        service.kill()
    service.start()
    until(lambda: all(state == "delivered" for state, *_ in states(service)))
    service.stop()
    events = [json.loads(one) for one in archive.read_text().splitlines()]
    of_id = {event["id"]: event["data"]["n"] for event in events}
    assert sorted(of_id.values()) == list(range(sent))


def read_to_its_end(stream: IO[str]) -> None:
    with stream:
        stream.read()


class TestStdout:
    def serve(self, service: Service, stdout: int) -> subprocess.Popen[str]:
        service.write_config()
        return subprocess.Popen(
            [*COMMAND, "serve", "-c", str(service.file)], stdout=stdout, stderr=subprocess.PIPE, text=True
        )

    def started(self, service: Service, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        for text in process.stderr:
            if json.loads(text)["event"] == "listening":
                service.port = json.loads(text)["port"]
                break
        threading.Thread(target=read_to_its_end, args=(process.stderr,), daemon=True).start()

    def test_a_pipe_gets_a_line_an_event_however_slow_its_reader(self, make_service: MakeService) -> None:
        service = make_service(
            destinations=[
                {
                    "name": "pipe",
                    "kind": "stdout",
                    "timeout": "200ms",
                    "retry": {"initial_delay": "100ms", "max_delay": "100ms"},
                }
            ]
        )
        out, into = os.pipe()
        process = self.serve(service, into)
        os.close(into)
        self.started(service, process)
        for n in range(8):
            post(service, n, n, pad="x" * 100_000)  # more than a pipe holds: nobody reads yet
        assert service.post(b'{"object_kind": "x", "project_id": 1}').status_code == 200
        events = list[Any]()
        with os.fdopen(out) as reader:
            while len({event["id"] for event in events}) < 9:
                events.append(json.loads(reader.readline()))
            process.terminate()
            reading = threading.Thread(target=reader.read, daemon=True)
            reading.start()
            assert process.wait(30) == 0
            reading.join()

    async def test_a_line_that_was_given_up_before_its_write_began_is_not_written(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        out, into = os.pipe()
        stdout = find_kind("stdout")
        pipe = stdout(stdout.config.model_validate({"name": "pipe", "kind": "stdout"}))
        large = message(1, json.dumps("x" * 100_000).encode())  # no pipe holds it
        with os.fdopen(into, "w") as file, os.fdopen(out) as reader:
            monkeypatch.setattr(sys, "stdout", file)
            tries = [await attempt(pipe, large, timeout_s=0.05) for _ in range(4)]
            assert [answer.error_class for answer in tries] == ["timeout"] * 4
            reading = asyncio.ensure_future(asyncio.to_thread(reader.read))
            assert (await attempt(pipe, large, timeout_s=5)).accepted
            await pipe.close()
            monkeypatch.undo()
            file.close()
            assert len((await reading).splitlines()) == 2  # the first was being written

    def test_a_file_works_too_and_a_closed_pipe_is_no_loss(self, make_service: MakeService, tmp_path: Path) -> None:
        pipe = {"name": "pipe", "kind": "stdout", "retry": {"initial_delay": "50ms", "max_delay": "50ms"}}
        service = make_service(destinations=[pipe])
        out, into = os.pipe()
        process = self.serve(service, into)
        os.close(into)
        os.close(out)
        self.started(service, process)
        service.config["receiver"]["port"] = service.port
        post(service, 1, 1)
        until(lambda: any(state == "retrying" for state, *_ in states(service)))
        process.terminate()
        assert process.wait(30) == 0
        with (tmp_path / "out").open("w") as file:
            process = self.serve(service, file.fileno())
            self.started(service, process)
            until(lambda: states(service)[0][0] == "delivered")
            process.terminate()
            assert process.wait(30) == 0
        assert json.loads((tmp_path / "out").read_text())["data"]["n"] == 1


class TestOthersKinds:
    def test_a_package_brings_a_kind(self, make_service: MakeService, tmp_path: Path, monkeypatch: Any) -> None:
        target = tmp_path / "installed"
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(target), str(PLUGIN)],
            check=True,
        )
        monkeypatch.setenv("PYTHONPATH", str(target))
        folder = tmp_path / "events"
        folder.mkdir()
        destination = {"name": "f", "kind": "folder", "path": str(folder), "largest": 10_000}
        service = make_service(destinations=[destination]).start()
        for n in range(3):
            post(service, 1, n)
        post(service, 2, 3, pad="x" * 20_000)
        until(lambda: {state for state, *_ in states(service)} == {"delivered", "dead"})
        service.stop()
        found = [json.loads(path.read_text())["n"] for path in sorted(folder.glob("*.json"))]
        assert found == [0, 1, 2]
        assert list(folder.glob(".*")) == []
        wrong = service.config["destinations"][0]
        del wrong["path"]
        service.write_config()
        told = service.run("check").stderr
        assert "destinations[0].path: is missing" in told

    def test_what_is_not_there_is_named(self, tmp_path: Path) -> None:
        file = tmp_path / "config.yaml"
        config = {"receiver": {"hooks": [{"token": "t"}]}, "destinations": [{"name": "a", "kind": "smoke"}]}
        file.write_text(yaml.safe_dump(config))
        with pytest.raises(ConfigError) as raised:
            load(file, {})
        assert "there is no kind 'smoke'; there are: file, http, kafka" in str(raised.value)

    def test_a_library_that_is_missing_is_named(self, tmp_path: Path) -> None:
        file = tmp_path / "config.yaml"
        nats = {"name": "n", "kind": "nats", "servers": ["nats://x"]}
        file.write_text(yaml.safe_dump({"receiver": {"hooks": [{"token": "t"}]}, "destinations": [nats]}))
        code = (
            "import sys; sys.modules['nats'] = None; sys.argv[1:] = ['check', '-c', sys.argv[1]]; "
            "from reconciler.cli import main; main()"
        )
        done = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert "pip install 'gitlab-reconciler[nats]'" in done.stderr


class TestAttempt:
    """Whatever a kind does, it comes to an answer."""

    @pytest.mark.parametrize(
        ("error", "error_class", "rejected"),
        [
            (DeliveryRejected("too large"), "rejected", True),
            (ConnectionResetError("gone"), "connection", False),
            (LookupError("nobody there"), "lookup_error", False),
            (ValueError(""), "value_error", False),
        ],
    )
    async def test_errors(self, error: Exception, error_class: str, rejected: bool) -> None:
        answer = await attempt(Failing(error), message(1), timeout_s=1)
        assert (answer.accepted, answer.error_class, answer.rejected) == (False, error_class, rejected)
        assert answer.error

    async def test_what_takes_too_long(self) -> None:
        answer = await attempt(Failing(None), message(1), timeout_s=0.05)
        assert (answer.error_class, answer.rejected) == ("timeout", False)


class Failing(Kind):
    """Raises, or never ends."""

    def __init__(self, destination: Exception | None) -> None:
        self._error = destination

    @property
    def address(self) -> str:
        return ""

    async def send(self, message: Message) -> Answer:
        if self._error is None:
            await asyncio.Event().wait()
        else:
            raise self._error
        raise AssertionError
