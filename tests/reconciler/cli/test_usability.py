"""The commands as used by somebody who does not know them: wrong words, wrong ids, times as people say them."""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from reconciler.cli.app import command_line
from reconciler.cli.failing import ending
from reconciler.cli.grouping import grouped
from reconciler.cli.moments import moment
from reconciler.cli.unknown import together
from reconciler.events import times
from reconciler.events.times import Millis
from reconciler.ledger.coverage.watched import Name
from reconciler.ledger.views.unknowns import Unknown
from reconciler.simulator.server import Simulator
from tests.conftest import EVENTS_ONLY, MakeService, at_gitlab
from tests.support.filled import filled
from tests.support.service import run


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A ledger with seven comments in five projects, of which event 2 is the same as event 1; nothing was sent."""
    folder = tmp_path_factory.mktemp("usability")
    whole = {
        "receiver": {"port": 0, "hooks": [{"token": "t"}]},
        "destinations": [{"name": "archive", "kind": "file", "path": "out.ndjson"}],
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(whole))
    filled(folder / "ledger.db", 7)
    with sqlite3.connect(folder / "ledger.db") as db:
        db.execute("INSERT INTO destinations (id, name, ordering, active) VALUES (1, 'archive', 'project', 1)")
        db.execute("UPDATE events SET merged_into = 1 WHERE id = 2")
    yield folder / "config.yaml"


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, one in group.commands.items():
        if hasattr(one, "commands"):
            yield from commands(one, (*path, name))
        else:
            yield (*path, name), one


def counts(one: Any) -> bool:
    """Whether a parameter is a number."""
    return one.type_descriptor.annotation in (int, list[int])


ALL = dict(commands(typer.main.get_command(command_line())))
OPTIONS = {path: {name for option in one.params for name in option.opts} for path, one in ALL.items()}
WITH_JSON = [path for path, options in OPTIONS.items() if {"--json", "--config"} <= options]
GIVEN = {
    ("events", "show"): ["1"],
    ("dead-letters", "show"): ["1"],
    ("dead-letters", "replay"): ["1"],
    ("dead-letters", "discard"): ["1"],
    ("replay",): ["1"],
    ("destinations", "test"): ["archive"],
    ("backup",): ["target"],
    ("restore",): ["source"],
    ("hooks", "resend"): ["--project", "1"],
    ("backfill",): ["--from", "1d"],
    ("export",): ["--format", "csv", "--output", "events.csv"],
    ("intake", "discard"): ["1"],
}
"""What a command can't do without."""


def in_process(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["gitlab-reconciler", *words])
    code = ending(command_line(), prog_name="gitlab-reconciler")
    return code, capsys.readouterr().err


def test_there_are_many() -> None:
    assert len(WITH_JSON) >= 15


@pytest.mark.parametrize("path", WITH_JSON, ids=" ".join)
def test_an_error_under_json_is_json(
    path: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [*path, *GIVEN.get(path, []), "--json"]
    (tmp_path / "config.yaml").write_text("receiver:\n  prot: 1\n")
    code, said = in_process(monkeypatch, capsys, *given, "-c", str(tmp_path / "config.yaml"))
    error = json.loads(said)
    assert (code, error["exit_code"], error["mistakes"][0]["key"]) == (2, 2, "receiver.hooks")
    assert error["mistakes"][1]["line"] == 2
    code, said = in_process(monkeypatch, capsys, *given, "--nonsense")
    assert (code, json.loads(said)["exit_code"]) == (2, 2)
    assert "--nonsense" in json.loads(said)["error"]


@pytest.mark.parametrize("path", [("events", "show"), ("replay",), ("dead-letters", "discard")], ids=" ".join)
def test_other_errors_too(
    path: tuple[str, ...], config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = in_process(monkeypatch, capsys, *path, "99", "--json", "-c", str(config))
    assert (code, json.loads(said)["exit_code"], "99" in json.loads(said)["error"]) == (1, 1, True)
    code, said = in_process(monkeypatch, capsys, *path, "1" * 30, "--json", "-c", str(config))
    assert (code, json.loads(said)["exit_code"]) == (2, 2)
    code, said = in_process(monkeypatch, capsys, *path, "a\udcff\x1b[2J", "--json", "-c", str(config))
    assert (code, json.loads(said)["exit_code"], "\x1b" in said) == (2, 2, False)


def test_the_real_command_says_it_on_stderr(tmp_path: Path, config: Path) -> None:
    done = run("status", "--json", "-c", str(tmp_path / "none.yaml"))
    assert (done.returncode, done.stdout) == (2, "")
    assert json.loads(done.stderr)["mistakes"][0]["what"].startswith("does not exist")
    done = run("replay", "1", "-c", str(config))  # nobody answers
    assert (done.returncode, "nothing was changed" in done.stderr) == (1, True)
    done = run("events", "--form", "7d")
    assert (done.returncode, "See `gitlab-reconciler events list --help`" in done.stderr) == (2, True)
    assert "╭" not in done.stderr


class TestIds:
    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ("replay 1 99 100", "events 99, 100: not in this ledger; nothing was replayed"),
            ("replay 2", "event 2 is the same as event 1; nothing was replayed"),
            ("replay 2 99", "event 99: not in this ledger; event 2 is the same as event 1"),
            ("dead-letters replay 1 3", "events 1, 3: no dead letter; nothing was replayed"),
            ("dead-letters replay 1 --destination archive", "event 1: no dead letter of archive"),
            ("dead-letters discard 1 3", "events 1, 3: no dead letter; nothing was discarded"),
            ("dead-letters discard 2 99", "event 2 is the same as event 1; nothing was discarded"),
            ("dead-letters discard --all --project group/nothing", "; nothing was discarded"),
        ],
    )
    def test_those_that_are_none_are_named(self, config: Path, arguments: str, said: str) -> None:
        done = run(*arguments.split(), "--yes", "-c", str(config))
        assert (done.returncode, said in done.stderr) == (1, True), done.stderr
        with sqlite3.connect(config.with_name("ledger.db")) as db:
            assert db.execute("SELECT count(*) FROM deliveries").fetchone() == (0,)


@pytest.mark.parametrize("path", [path for path, one in ALL.items() if any(map(counts, one.params))], ids=" ".join)
@pytest.mark.parametrize("huge", [str(1 << 63), "9" * 5000], ids=["beyond the ledger", "beyond counting"])
def test_numbers_larger_than_the_ledger_s_are_refused(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    config: Path,
    path: tuple[str, ...],
    huge: str,
) -> None:
    for one in filter(counts, ALL[path].params):
        names = ["archive"] if any(other.name == "name" for other in ALL[path].params) else []
        if path == ("hooks", "resend"):
            names = GIVEN[path]
        words = [*names, *[word for word in one.opts[:1] if word.startswith("-")], huge]
        code, said = in_process(monkeypatch, capsys, *path, *words, "-c", str(config))
        called = (one.metavar or one.name or "").rstrip(".…[]")
        assert (code, "Traceback" in said, called in said) == (2, False, True), said


class TestFilters:
    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ("events --project typo", "No event matches: no project 'typo' in the ledger"),
            (
                "events --project gruop/1",
                "No event matches: no project 'gruop/1' in the ledger: did you mean 'group/1'?",
            ),
            ("events --project 77", "No event matches: no project '77' in the ledger"),
            (f"events --project {1 << 63}", f"No event matches: no project '{1 << 63}' in the ledger"),
            (
                f"dead-letters --project {'9' * 5000}",
                f"No dead letter matches: no project '{'9' * 5000}' in the ledger",
            ),
            ("events --kind noet", "No event matches: no kind 'noet' in the ledger: did you mean 'note'?"),
            ("events --kind push", "No event matches: no kind 'push' in the ledger"),
            (
                "events --source webhok:default",
                "No event matches: no source 'webhok:default' in the ledger: did you mean 'webhook:default'?",
            ),
            ("events --project group/1 --to 2020-01-01", "No event matches."),
            ("events --source webhook --to 2020-01-01", "No event matches."),
            (
                "dead-letters --destination archiv",
                "No dead letter matches: no destination 'archiv' in the ledger: did you mean 'archive'?",
            ),
            ("dead-letters --project group/1", "No dead letter matches."),
        ],
    )
    def test_what_was_never_seen_is_said(self, config: Path, arguments: str, said: str) -> None:
        done = run(*arguments.split(), "-c", str(config))
        assert (done.returncode, done.stdout.strip()) == (0, said)

    def test_a_program_reads_nothing_of_it(self, config: Path) -> None:
        done = run("events", "--project", "typo", "--json", "-c", str(config))
        assert (done.returncode, done.stdout, "typo" in done.stderr) == (0, "", True)

    def test_nothing_is_sent_again_for_a_project_that_is_none(self, config: Path) -> None:
        done = run("replay", "--from", "1d", "--project", "gruop/1", "-c", str(config))
        assert (done.returncode, "did you mean 'group/1'?; nothing was replayed" in done.stderr) == (1, True)


def test_groups_of_commands_alone_list(config: Path) -> None:
    for group in ("events", "dead-letters", "destinations"):
        alone, listed = (run(group, *more, "-c", str(config)) for more in ((), ("list",)))
        assert (alone.returncode, alone.stdout) == (0, listed.stdout)
        assert "Usage" not in alone.stdout
    done = run("hooks", "-c", str(config))
    assert (done.returncode, "gitlab.token: is required" in done.stderr) == (2, True)


NOON = Millis(round(datetime(2026, 10, 15, 12, tzinfo=UTC).timestamp() * 1000))


class TestTimes:
    @pytest.mark.parametrize(
        ("text", "start", "end"),
        [
            ("2026-10-01", "2026-10-01T00:00:00.000Z", "2026-10-02T00:00:00.000Z"),
            ("today", "2026-10-15T00:00:00.000Z", "2026-10-16T00:00:00.000Z"),
            ("Yesterday", "2026-10-14T00:00:00.000Z", "2026-10-15T00:00:00.000Z"),
            ("now", "2026-10-15T12:00:00.000Z", "2026-10-15T12:00:00.000Z"),
            ("7d", "2026-10-08T12:00:00.000Z", "2026-10-08T12:00:00.000Z"),
            ("2w ago", "2026-10-01T12:00:00.000Z", "2026-10-01T12:00:00.000Z"),
            ("90m", "2026-10-15T10:30:00.000Z", "2026-10-15T10:30:00.000Z"),
            ("2026-10-01T08:30:00+02:00", "2026-10-01T06:30:00.000Z", "2026-10-01T06:30:00.000Z"),
            ("9999-12-31", "9999-12-31T00:00:00.000Z", "9999-12-31T23:59:59.999Z"),
            ("0001-01-01", "0001-01-01T00:00:00.000Z", "0001-01-02T00:00:00.000Z"),
            ("999999999d", "0001-01-01T00:00:00.000Z", "0001-01-01T00:00:00.000Z"),
        ],
    )
    def test_as_people_say_them(self, monkeypatch: pytest.MonkeyPatch, text: str, start: str, end: str) -> None:
        monkeypatch.setattr(times, "now", lambda: NOON)
        found, last = moment(text), moment(text, end_of_day=True)
        assert found is not None
        assert last is not None
        assert (times.iso(found), times.iso(last)) == (start, end)

    @pytest.mark.parametrize("text", ["soon", "tomorrow", "7", "7x", "-7d", "2026-13-01", "2026-10-32", "", "٧d"])
    def test_what_is_none(self, text: str) -> None:
        with pytest.raises(typer.BadParameter, match="write 2026-10-01"):
            moment(text)

    @pytest.mark.parametrize(
        "command",
        ["events --from {}", "dead-letters --to {}", "destinations test archive --from {}", "replay --from {} -y",
         "dead-letters replay --to {} -y"],
    )  # fmt: skip
    def test_every_command_takes_them(self, config: Path, command: str) -> None:
        done = run(*command.format("2026-10-00").split(), "-c", str(config))
        assert (done.returncode, "yesterday" in done.stderr) == (2, True)
        if "replay" not in command:
            assert run(*command.format("7d").split(), "-c", str(config)).returncode == 0

    def test_backfill_and_resend_take_them_too(self, make_service: MakeService, gitlab: Simulator) -> None:
        service = make_service(**at_gitlab(gitlab, **EVENTS_ONLY))
        service.write_config()
        assert service.run("backfill", "--from", "yesterday", "--to", "9999-12-31").returncode == 0
        done = service.run("hooks", "resend", "--project", "42", "--from", "7d", "--dry-run")
        assert done.returncode == 0, done.stderr


class TestOnce:
    def test_what_is_the_same_with_many_projects(self) -> None:
        token = "HTTP 401: the token is wrong"
        troubles = [(str(n), f"GET /projects/{n}: {token}") for n in range(9)] + [("x", "GET /projects/x: gone")]
        assert grouped(troubles) == [f"0, 1, 2, 3, 4 and 4 more: {token}", "x: GET /projects/x: gone"]

    def test_what_is_not_known(self) -> None:
        gitlab = Name("gitlab", "https://h")
        why = "it has no webhook for this receiver"
        found = [
            Unknown("webhook", f"hook_log of {p}", gitlab, "no webhook", f"{p}: {why}", since)
            for p, since in (("a/b", "2026-10-02"), ("c/d", "2026-10-01"))
        ]
        [one] = together(found)
        assert (one.what, one.why) == ("webhook hook_log of a/b, hook_log of c/d: no webhook since 2026-10-01", why)

    def test_a_wrong_token_and_a_gitlab_that_is_away(self, make_service: MakeService, gitlab: Simulator) -> None:
        sections = at_gitlab(gitlab) | {"projects": [42, 43, 44], "gitlab": {"url": gitlab.url, "token": "wrong"}}
        service = make_service(**sections)
        service.config["receiver"]["url"] = "http://127.0.0.1:9"
        service.write_config()
        for command in ("hooks", "hooks ensure", "backfill --from 1d"):
            done = service.run(*command.split())
            assert (done.returncode, done.stderr.count("the token is wrong")) == (1, 1), done.stderr
        service.config["gitlab"] = {"url": "http://127.0.0.1:9", "token": "x"}
        service.write_config()
        done = service.run("check")
        assert "no answer: Connection refused" in done.stdout
        assert "HTTPConnection" not in done.stdout

    def test_check_says_it_once_and_json_for_each(self, make_service: MakeService, gitlab: Simulator) -> None:
        service = make_service(**(at_gitlab(gitlab) | {"projects": ["group/no", "group/nor", 42]}))
        service.write_config()
        done = service.run("check")
        assert done.stdout.count("HTTP 404") == 1
        assert "✗ project group/no, group/nor\n" in done.stdout
        found = json.loads(service.run("check", "--json").stdout)
        assert [one["project"] for one in found if "404" in (one["advice"] or "")] == ["group/no", "group/nor"]


def test_backfill_counts_for_each_source(make_service: MakeService, gitlab: Simulator) -> None:
    service = make_service(**at_gitlab(gitlab))
    service.write_config()
    gitlab.world.push(42)
    gitlab.world.issue(42)
    found = json.loads(service.run("backfill", "--from", "1d", "--json").stdout)
    [project] = found["projects"]
    sources = project["sources"]
    assert sources["project_events"]["new"] == 2
    assert sum(one["new"] for one in sources.values()) == project["new"] == 2
    assert sum(one["requests"] for one in sources.values()) == project["requests"]
    assert sources["pipelines"]["seen"] == 0
    gitlab.world.pipeline(42)
    done = service.run("backfill", "--from", "1d", "--dry-run")
    rows = [line.split() for line in done.stdout.splitlines()]
    [events] = [row for row in rows if row[:2] == ["group/project", "project_events"]]
    [pipelines] = [row for row in rows if row[:2] == ["group/project", "pipelines"]]
    assert (events[2], int(pipelines[2]) > 0, rows[-2][0]) == ("2", True, "all")
    lines = [line for line in done.stderr.splitlines() if ": pipelines read" in line]
    assert lines[-1].endswith(f"of which seen {pipelines[2]}, new {pipelines[4]}")  # its own, not what came before


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_everything_under_help_is_told_in_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for path in [(), *ALL]:
        monkeypatch.setattr(sys, "argv", ["gitlab-reconciler", *path, option])
        code = ending(command_line(), prog_name="gitlab-reconciler")
        shown = capsys.readouterr().out
        assert (code, max(map(len, shown.splitlines())) <= 80) == (0, True)
        assert "Usage: gitlab-reconciler" in shown


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("schema -o {}/no/where", 1, "can't be written"),
        ("schema -o {}", 1, "can't be written: Is a directory"),
        ("init {}", 2, "is a folder: name a file in it"),
        ("init {}/file/config.yaml", 1, "can't be written"),
        ("restore {}/no", 1, "no such file"),
        ("restore {}", 1, ""),
        ("backup {}/no/where", 1, ""),
        ("check -c {}/folder.yaml", 2, "ledger.path: should be a file"),
        ("status -c {}/folder.yaml", 2, "ledger.path: should be a file"),
        ("serve -c {}/folder.yaml", 2, "ledger.path: should be a file"),
    ],
)
def test_a_file_that_can_t_be_written_or_read(
    tmp_path: Path, config: Path, command: str, code: int, said: str
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.yaml").write_text("receiver: {port: 0, hooks: [{token: t}]}\nledger: {path: .}\n")
    words = command.replace("{}", str(tmp_path)).split()
    more = ["-c", str(config)] if words[0] in ("backup", "restore") else []
    done = run(*words, *more)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
    assert said in done.stdout + done.stderr
    assert (done.stdout + done.stderr).strip()
