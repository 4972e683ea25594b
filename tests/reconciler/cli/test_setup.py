"""`setup`: on a terminal, and with an option for each answer. GitLab is simulated; everything else is real."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reconciler.cli.new_files import NewFile, write_all
from reconciler.cli.sample import filled_in, sample
from reconciler.config.load import load
from reconciler.simulator.consumer import Consumer
from reconciler.simulator.server import Simulator
from tests.support.service import run
from tests.support.terminal import Conversation

TOKEN = "glpat-simulator"
URL = "https://events.example"
NOTHING = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the commands run. No token is in the environment."""
    monkeypatch.delenv("GITLAB_TOKEN", raising=False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    return file


def names(folder: Path) -> set[str]:
    return {one.name for one in folder.iterdir()}


def mode(file: Path) -> int:
    return stat.S_IMODE(file.stat().st_mode)


class TestOnATerminal:
    def test_wrong_answers_are_explained_and_asked_again(
        self, gitlab: Simulator, consumer: Consumer, folder: Path
    ) -> None:
        gitlab.world.add_project(43, "group/other")
        gitlab.api.expires_at = "2027-01-31"
        with Conversation("setup") as setup:
            setup.answer("URL [https://gitlab.com]: ", "gitlab")
            setup.wait_for("✗ should be a URL like https://host/path")
            setup.answer("URL [", consumer.url)
            setup.wait_for("something answers, but not as GitLab does")
            setup.answer("URL [", NOTHING)
            setup.wait_for("no answer: Connection refused")
            setup.answer("URL [", gitlab.url)

            setup.answer("Token (not shown): ", "no-token")
            setup.wait_for("does not accept the token: it is wrong, expired or revoked")
            setup.answer("Token (not shown): ", TOKEN)
            setup.wait_for("✓ GitLab 18.0.0-ee accepts the token: scopes api; expires 2027-01-31")

            setup.answer("Enter: list: ", "nowhere")
            setup.wait_for("member of no project with 'nowhere' in its name")
            setup.answer("Enter: list: ", "nowhere/at-all")
            setup.wait_for("member of no project with 'nowhere/at-all'")
            setup.answer("Enter: list: ", "")
            setup.wait_for("group/project")
            setup.answer("or `all`: ", "3")
            setup.wait_for("should be numbers from 1 to 2")
            setup.answer("Enter: list: ", "OTHER")
            setup.answer("or `all` [1]: ", "")
            setup.wait_for("✓ project group/other, id 43")
            setup.answer("Another one; Enter: continue: ", "group/project")
            setup.wait_for("✓ project group/project, id 42")
            setup.answer("Another one; Enter: continue: ", "")

            setup.answer("or `stdout` [events.ndjson]: ", "nats://127.0.0.1")
            setup.wait_for("should be a URL that begins with https:// or http://")
            setup.answer("or `stdout` [", consumer.url)
            setup.answer("127.0.0.1 is not a public address. Deliver to it? [y/N]: ", "n")
            consumer.answer = lambda _headers, _body: (500, {}, b"not today")
            setup.answer("or `stdout` [", consumer.url)
            setup.answer("Deliver to it? [y/N]: ", "y")
            setup.wait_for("did not accept the test event: HTTP 500")
            consumer.answer = lambda _headers, _body: (200, {}, b"")
            setup.answer("or `stdout` [", consumer.url)
            setup.answer("Deliver to it? [y/N]: ", "yes")
            setup.wait_for("accepted a test event")

            gitlab.api.faults.forbidden_paths = {"/hooks": 403}
            setup.answer("Enter: later: ", f"{URL}/webhooks/gitlab")
            setup.wait_for("should be the URL that /webhooks/gitlab/… is below")
            setup.answer("Enter: later: ", URL)
            setup.answer("Create 2 webhooks now? [Y/n]: ", "")
            setup.wait_for("the webhook can't be created")
            gitlab.api.faults.forbidden_paths = {}
            assert names(folder) == set()
            setup.answer("Enter: later: ", URL)
            setup.answer("Create 2 webhooks now? [Y/n]: ", "y")
            assert setup.wait() == 0, setup.logged
            setup.wait_for("3. have https://events.example/webhooks/gitlab/ passed on to 127.0.0.1:8080")
        assert TOKEN not in setup.logged

        config = load(folder / "config.yaml", {})
        assert config.gitlab.url == gitlab.url
        assert config.gitlab.token is not None
        assert config.gitlab.token.get_secret_value() == TOKEN
        assert [one.project for one in config.projects] == ["group/other", "group/project"]
        assert config.receiver.url == URL
        [destination] = config.destinations
        assert (destination.kind, getattr(destination, "url", None)) == ("http", consumer.url)
        assert names(folder) == {"config.yaml", "config.schema.json", "gitlab-token", "webhook-token"}
        assert {mode(folder / name) for name in names(folder) - {"config.schema.json"}} == {0o600}
        received = consumer.accepted[-1]
        assert json.loads(received.body)["object_kind"] == "reconciler_test"
        webhook_token = (folder / "webhook-token").read_text().strip()
        assert len(webhook_token) >= 24
        hooks = list(gitlab.courier.hooks.values())
        assert [(hook.project_id, hook.url, hook.token) for hook in hooks] == [
            (number, f"{URL}/webhooks/gitlab/default", webhook_token) for number in (43, 42)
        ]

    def test_defaults_and_a_token_that_only_reads(
        self, gitlab: Simulator, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What is in the environment is not asked for, and stays there."""
        gitlab.api.scopes = ("read_api",)
        monkeypatch.setenv("GITLAB_TOKEN", TOKEN)
        with Conversation("setup", "sub/my.yaml", "--gitlab-url", gitlab.url, "--project", "42") as setup:
            setup.answer("or `stdout` [events.ndjson]: ", "")
            setup.answer("Enter: later: ", URL)
            setup.wait_for("! The token can't create webhooks")
            assert setup.wait() == 0, setup.logged
            setup.wait_for("1. keep GITLAB_TOKEN set")
            setup.wait_for("in a second terminal: gitlab-reconciler hooks ensure --config sub/my.yaml")
        assert names(folder / "sub") == {"my.yaml", "config.schema.json", "webhook-token"}
        config = load(folder / "sub" / "my.yaml", {"GITLAB_TOKEN": "another"})
        assert config.gitlab.token is not None
        assert config.gitlab.token.get_secret_value() == "another"
        assert getattr(config.destinations[0], "path", None) == folder / "sub" / "events.ndjson"
        assert gitlab.courier.hooks == {}

    @pytest.mark.parametrize("end", ["Ctrl-C", "Ctrl-D"])
    def test_one_that_is_interrupted_leaves_nothing(self, gitlab: Simulator, folder: Path, end: str) -> None:
        with Conversation("setup", "--gitlab-url", gitlab.url) as setup:
            setup.wait_for("Token (not shown): ")
            assert not setup.shows_keys()
            if end == "Ctrl-C":
                setup.interrupt()
            else:
                setup.type("\x04")
            assert setup.wait() == 1
            setup.wait_for("No config was written")
            assert setup.shows_keys()
        assert "Traceback" not in setup.logged
        assert names(folder) == set()


WRONG: list[tuple[str, int, dict[str, Any]]] = [
    ("nothing can be asked: give --gitlab-url", 2, {"gitlab_url": None}),
    ("give --token-file or GITLAB_TOKEN", 2, {"token_file": None}),
    ("--gitlab-url: should be GitLab's own URL, without /api/v4", 2, {"gitlab_url": f"{NOTHING}/api/v4"}),
    ("--gitlab-url: http://127.0.0.1:9: GET /version: no answer", 1, {"gitlab_url": NOTHING}),
    ("--token-file: can't read nowhere: No such file", 2, {"token_file": "nowhere"}),
    ("does not accept the token: it is wrong", 1, {"token_file": "wrong"}),
    ("GITLAB_TOKEN: http", 1, {"token_file": None, "environment": "wrong"}),
    ("--project: project group/nowhere: GET /projects/", 1, {"project": "group/nowhere"}),
    ("--project: 'nowhere' should be a project's numeric id or its path", 2, {"project": "nowhere"}),
    ("--destination: {consumer} did not accept the test event: HTTP 404", 1, {"answer": 404}),
    ("127.0.0.1 is not a public address: add --allow-private", 2, {"allow_private": None}),
    ("did not accept the test event: FileExistsError", 1, {"destination": "/dev/full/x"}),
    ("should be a URL that begins with https://", 2, {"destination": "events.example.com/x"}),
    ("webhook-token: is a file of the service itself", 2, {"destination": "webhook-token"}),
    (r"a\x1bb: has characters that can't be printed", 2, {"destination": "a\x1bb"}),
    (r"a\udcff: has characters that can't be printed", 2, {"destination": "a\udcff"}),
    (r"a\udcff: has characters that can't be printed", 2, {"token_file": "a\udcff"}),
    ("--token-file: config.yaml is a file that `setup` writes", 2, {"token_file": "config.yaml"}),
    ("--token-file: ../here/webhook-token is a file that", 2, {"token_file": "../here/webhook-token"}),
    ("--create-webhooks needs --receiver-url", 2, {"create_webhooks": True}),
    ("--receiver-url: should be a URL like", 2, {"receiver_url": "nowhere"}),
    ("needs the scope api", 1, {"create_webhooks": True, "receiver_url": URL, "scope": "read_api"}),
    (
        "the webhook can't be created: HTTP 403: the token needs the role Maintainer",
        1,
        {"create_webhooks": True, "receiver_url": URL, "refused": True},
    ),
]


@pytest.fixture
def options(gitlab: Simulator, consumer: Consumer, token_file: Path) -> dict[str, Any]:
    return {
        "gitlab_url": gitlab.url,
        "token_file": str(token_file),
        "project": "group/project",
        "destination": consumer.url,
        "allow_private": True,
    }


def words(options: dict[str, Any]) -> Iterator[str]:
    for name, value in options.items():
        if value is not None:
            yield "--" + name.replace("_", "-")
            if value is not True:
                yield str(value)


@pytest.mark.parametrize(("what", "code", "changes"), WRONG, ids=[what for what, _, _ in WRONG])
def test_a_wrong_option_ends_it_and_nothing_is_written(
    what: str, code: int, changes: dict[str, Any], options: dict[str, Any], gitlab: Simulator, consumer: Consumer,
    folder: Path, token_file: Path,
) -> None:  # fmt: skip
    changes = dict(changes)
    gitlab.api.scopes = (changes.pop("scope", "api"),)
    status = changes.pop("answer", 200)
    consumer.answer = lambda _headers, _body: (status, {}, b"")
    if changes.pop("refused", False):
        gitlab.api.faults.forbidden_paths = {"/hooks": 403}
    environment = {"GITLAB_TOKEN": found} if (found := changes.pop("environment", None)) else {}
    if changes.get("token_file") == "wrong":
        token_file.write_text("wrong")
        changes = {}
    done = run("setup", *words(options | changes), **environment)
    assert done.returncode == code, done.stderr
    assert what.format(consumer=consumer.url) in done.stderr
    assert "Traceback" not in done.stderr
    assert names(folder) == set()
    assert gitlab.courier.hooks == {}


def test_what_is_there_is_overwritten_only_with_force(
    options: dict[str, Any], folder: Path, gitlab: Simulator
) -> None:
    (folder / "webhook-token").write_text("precious")
    done = run("setup", *words(options))
    assert (done.returncode, "webhook-token already exists; use --force" in done.stderr) == (2, True)
    assert sum(gitlab.api.requests.values()) == 0
    (folder / "config.yaml").write_text("precious")
    (folder / "config.yaml").chmod(0o644)
    done = run("setup", *words(options))
    assert (done.returncode, "config.yaml already exists; use --force" in done.stderr) == (2, True)
    assert {(folder / name).read_text() for name in names(folder)} == {"precious"}
    done = run("setup", "--force", *words(options))
    assert done.returncode == 0, done.stderr
    assert load(folder / "config.yaml", {}).gitlab.url == gitlab.url
    assert mode(folder / "config.yaml") == 0o600


def test_webhooks_keep_their_secret(options: dict[str, Any], folder: Path, gitlab: Simulator) -> None:
    """One that can't be updated keeps its secret, and the files have the same one."""
    hooks = {"create_webhooks": True, "receiver_url": URL}
    assert run("setup", *words(options | hooks)).returncode == 0
    [hook] = gitlab.courier.hooks.values()
    secret = (folder / "webhook-token").read_text().strip()
    assert hook.token == secret
    (folder / "config.yaml").unlink()
    gitlab.api.faults.forbidden_paths = {f"/hooks/{hook.id}": 403}
    done = run("setup", "--force", *words(options | hooks))
    assert done.returncode == 1
    assert "project group/project: the webhook can't be created" in done.stderr
    written = "config.yaml, config.schema.json and webhook-token are written"
    assert f"{written}: `gitlab-reconciler hooks ensure` does the rest" in done.stderr
    assert "No config was written" not in done.stderr
    assert "config.yaml" in names(folder)
    gitlab.api.faults.forbidden_paths = {}
    assert run("hooks", "ensure").returncode == 0
    assert {one.token for one in gitlab.courier.hooks.values()} == {secret}
    assert (folder / "webhook-token").read_text().strip() == secret
    (folder / "webhook-token").unlink()
    done = run("setup", "--force", *words(options | hooks))
    assert "its secret token is new" in done.stderr
    assert (folder / "webhook-token").read_text().strip() not in ("", secret)


@pytest.mark.parametrize("status", [200, 500])
def test_no_secret_of_a_destination_is_shown(options: dict[str, Any], consumer: Consumer, status: int) -> None:
    consumer.answer = lambda _headers, _body: (status, {}, b"")
    url = consumer.url.replace("://", "://u:open-sesame@") + "/services/T0OPENSESAME0000001?key=open-sesame"
    done = run("setup", *words(options | {"destination": url}))
    assert "accept" in done.stderr
    assert "sesame" not in (done.stdout + done.stderr).lower()


def test_a_config_needs_a_name_that_can_be_printed(options: dict[str, Any], folder: Path) -> None:
    done = run("setup", "a\x1bb.yaml", *words(options))
    assert (done.returncode, r"a\x1bb.yaml: has characters that can't be printed" in done.stderr) == (2, True)
    assert names(folder) == set()


def test_a_token_in_a_file_stays_there(options: dict[str, Any], folder: Path, token_file: Path) -> None:
    assert run("setup", *words(options)).returncode == 0
    assert f"token_file: {token_file}\n" in (folder / "config.yaml").read_text()
    assert "gitlab-token" not in names(folder)


def test_a_test_event_leaves_no_file_that_was_not_there(options: dict[str, Any], folder: Path) -> None:
    done = run("setup", *words(options | {"destination": "a/b/events.ndjson"}))
    assert done.returncode == 0, done.stderr
    assert "a/b/events.ndjson accepted a test event" in done.stderr
    assert not (folder / "a").exists()
    (folder / "old.ndjson").write_text("{}\n")
    assert run("setup", "--force", *words(options | {"destination": "old.ndjson"})).returncode == 0
    assert len((folder / "old.ndjson").read_text().splitlines()) == 2
    done = run("setup", "--force", *words(options | {"destination": "stdout"}))
    assert json.loads(done.stdout.splitlines()[0])["data"]["object_kind"] == "reconciler_test"


ODD = ["group/project", "1e3/x", "- a/b", "a: b/c", "a/#b", "$HOME/${X}", "漢/🙂", "yes/no", "a/b\\c", '"a"/b', "0x1"]


def test_values_are_read_back_as_they_were_given(folder: Path) -> None:
    (folder / "token").write_text(TOKEN)
    projects = [one.replace(" ", "_") for one in ODD if "/" in one]
    text = filled_in(
        sample("s.json"),
        gitlab_url="https://h/a$b",
        token_file="token",
        projects=projects,
        receiver_url=None,
        webhook_token_file="token",
        destination=["  - {name: d, kind: stdout}"],
    )
    (folder / "config.yaml").write_text(text, encoding="utf-8")
    config = load(folder / "config.yaml", {})
    assert [one.project for one in config.projects] == projects
    assert (config.gitlab.url, config.receiver.url) == ("https://h/a$b", None)


def test_files_are_written_all_or_none(folder: Path) -> None:
    (folder / "a").write_text("before")
    with pytest.raises(OSError, match="too long"):
        write_all([NewFile(folder / "a", "after"), NewFile(folder / ("n" * 300), "x")])
    assert (names(folder), (folder / "a").read_text()) == ({"a"}, "before")
    (folder / "link").symlink_to("a")
    write_all([NewFile(folder / "link", "after"), NewFile(folder / "new" / "b", "x", private=False)])
    assert ((folder / "link").is_symlink(), (folder / "a").read_text()) == (True, "after")
    assert mode(folder / "a") == 0o600
    assert mode(folder / "new" / "b") & 0o444 == 0o444
