"""The real `gitlab-reconciler serve`, as a process on a real port."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import httpx
import yaml

from reconciler.ledger.storage.connection import connect
from reconciler.ledger.upkeep.reloads import last_reload
from reconciler.location import Location, PostgresUrl
from tests.support.looking import Looker
from tests.support.starter import COMMAND, START, Started

__all__ = ["COMMAND", "TOKEN", "Service", "run", "until"]

TOKEN = "hook-token-that-nobody-guesses"


class Service:
    """Starts, stops and kills a service. `config` is what goes into its config.yaml."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        self.folder = folder
        self.file = folder / "config.yaml"
        self.config = config
        ledger = config["ledger"]
        self.location: Location = PostgresUrl(ledger["url"]) if "url" in ledger else folder / ledger["path"]
        self.looker = Looker(self.location)
        self.process: Started | subprocess.Popen[str] | None = None
        self.port = 0
        self.logs: list[dict[str, Any]] = []
        self._logged = threading.Condition()
        # A connection a delivery, as GitLab has it; making a client for each would cost ten times that.
        self._gitlab = httpx.Client(timeout=30, limits=httpx.Limits(max_keepalive_connections=0))

    def write_config(self) -> None:
        self.file.write_text(yaml.safe_dump(self.config), encoding="utf-8")

    @property
    def ledger(self) -> Path:
        """The file of its ledger, for tests that are about SQLite's file."""
        assert isinstance(self.location, Path)
        return self.location

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, only: str | None = None, *, module: str = "reconciler") -> Service:
        """Start it, or `only` its receiver or worker, and wait until it is ready. Another `module` may change it."""
        self.launch(only, module=module)
        if only != "worker":
            self.port = self.wait_for_log("listening")["port"]
            self.config["receiver"]["port"] = self.port  # the same port after a restart
        if only != "receiver":
            self.wait_for_log("ready")
        return self

    def launch(self, only: str | None = None, *, module: str = "reconciler") -> None:
        """Start it, and wait for nothing."""
        options = [] if only is None else ["--only", only]
        command = ["serve", "-c", str(self.file), "--log-level", "debug", *options]
        self.write_config()
        self.watch(START.start(*command, stderr=subprocess.PIPE, env=dict(os.environ), module=module))

    def watch(self, process: Started | subprocess.Popen[str]) -> None:
        """Read the logs of a process that was started, which is this service's from now on."""
        with self._logged:
            self.logs = []
        self.process = process
        threading.Thread(target=self._read_logs, args=(process,), daemon=True).start()

    def stop(self) -> int:
        """SIGTERM, and wait for it to end; its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not stop: {self.logs[-20:]}") from None
        if code:
            print(*self.logs[-20:], sep="\n")  # pytest shows it if the test fails
        return code

    def kill(self) -> None:
        """SIGKILL, and wait until all of its processes are gone."""
        assert self.process is not None
        others = children(self.process.pid)
        self.process.kill()
        self.process.wait(timeout=30)
        until(lambda: not any(map(runs, others)))

    def pid_of(self, process: str) -> int:
        """The process that runs now as `receiver` or `worker`."""
        return [int(line["pid"]) for line in self.logs if line.get("process") == process and "pid" in line][-1]

    def wait_for_log(self, event: str, timeout_s: float = 30.0, *, after: int = 0, **fields: Any) -> dict[str, Any]:
        """Wait for a line of the running process's log, beginning `after` so many lines."""
        with self._logged:
            found: list[dict[str, Any]] = []

            def there() -> bool:
                for line in self.logs[after:]:
                    if line.get("event") == event and fields.items() <= line.items():
                        found.append(line)
                        return True
                return self.process is not None and self.process.poll() is not None

            self._logged.wait_for(there, timeout_s)
        assert found, f"no {event!r} in the log: {self.logs}"
        return found[0]

    def post(
        self, body: bytes, *, path: str = "/webhooks/gitlab", recorded: bool = True, **headers: str
    ) -> httpx.Response:
        """Deliver a webhook as GitLab would; if it is accepted, wait until it is `recorded`."""
        sent = {"Content-Type": "application/json", "X-Gitlab-Token": TOKEN}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        answer = self._gitlab.post(self.url + path, content=body, headers=sent)
        if recorded and answer.status_code == 200:
            self.until_recorded()
        return answer

    def until_recorded(self, timeout_s: float = 30.0) -> None:
        """Wait until all that was acknowledged so far is recorded, or kept because it can't be."""
        intake_id, last = self.looker.appended()
        until(lambda: not last or self.looker.has_recorded(intake_id, last), timeout_s, pause_s=0.002)

    def rows(self, sql: str, *parameters: Any) -> list[Any]:
        """The rows of a query in its ledger. One for both databases, or an `Sql`."""
        return self.looker.rows(sql, *parameters)

    def run(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run another command on the same config."""
        return run(*arguments, "-c", str(self.file), stdin=stdin)

    def reload(self) -> str:
        """Have it read its config again. Why it was refused, if it was."""
        if isinstance(self.location, Path):
            done = self.run("reload")
            assert (done.returncode == 0) == (done.stderr == "")
            return done.stderr
        assert self.process is not None
        with closing(connect(self.location, readonly=True)) as db:
            before = last_reload(db).number
            self.process.send_signal(signal.SIGHUP)  # in PostgreSQL there is no command: it may have many services
            until(lambda: last_reload(db).number > before)
            return last_reload(db).error or ""

    def _read_logs(self, process: Started | subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        with process.stderr:
            for line in process.stderr:
                try:
                    entry = json.loads(line)
                except ValueError:
                    entry = {"event": line.strip()}
                with self._logged:
                    self.logs.append(entry)
                    self._logged.notify_all()
        process.wait()  # also if another has taken its place: nothing of it is left open
        with self._logged:
            self._logged.notify_all()


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    found = []
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(one) for one in thread.read_text().split()]
    return found


def runs(pid: int) -> bool:
    """Whether a process has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(condition: Callable[[], bool], timeout_s: float = 30.0, *, pause_s: float = 0.02) -> None:
    """Wait for something in a ledger or a file, which tell nobody when they change."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come to be in time"
        time.sleep(pause_s)


def run(*arguments: str, stdin: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    env = {**os.environ, "NO_COLOR": "1", "COLUMNS": "200", **environ}
    with (
        TemporaryFile("w+", encoding="utf-8") as given,
        TemporaryFile("w+", encoding="utf-8") as stdout,
        TemporaryFile("w+", encoding="utf-8") as stderr,
    ):
        given.write(stdin)
        given.seek(0)
        process = START.start(
            *arguments, stdin=given.fileno(), stdout=stdout.fileno(), stderr=stderr.fileno(), env=env
        )
        try:
            code = process.wait(timeout=120)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        stdout.seek(0)
        stderr.seek(0)
        return subprocess.CompletedProcess(arguments, code, stdout.read(), stderr.read())
