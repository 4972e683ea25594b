"""What is said of a config that can't work: file, line, key, and what to do; never in a library's words."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from reconciler.config.load import ConfigError, load
from reconciler.config.weak_secrets import guessable, guessable_key
from tests.support.effort import tries
from tests.support.service import run

HOOK = "receiver: {hooks: [{token: t}]}\n"
LIBRARIES = re.compile(
    r"Input|valid (string|integer|number|boolean|list|dictionary)|unable to|validation|instance of|Value error"
    r"|parse\b|pydantic|NoneType|Error\b|object at 0x|'type'|literal|constructor|\bdict\b"
)
"""Words that only those know who know what it is written with."""


def told(folder: Path, text: str, **environ: str) -> list[str]:
    """The mistakes in a config, without the folder."""
    (folder / "config.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as raised:
        load(folder / "config.yaml", environ)
    return [str(mistake).replace(str(folder) + "/", "") for mistake in raised.value.mistakes]


WRONG = {
    # keys
    "projct: []\n": "2: projct: unknown key: did you mean `projects`?",
    "hooks: []\n": "2: hooks: unknown key here: it is a key of `receiver`",
    "gitlab:\n  receiver: 1\n": "3: gitlab.receiver: unknown key; known keys are url, token, token_file",
    "gitlab:\n  Token: x\n": "3: gitlab.Token: unknown key: did you mean `token`?",
    "destinations:\n- name: d\n  ulr: x\n  url: https://h\n": "4: destinations[0].ulr: unknown key: did you mean `u",
    "destinations:\n- name: d\n  url: https://h\n  subject: x\n": "it is a key of destinations of the kind nats",
    "destinations:\n- name: d\n  url: https://h\n  retry: {max_dely: 1s}\n": "max_dely: unknown key: did you mean `m",
    "destinations:\n- {name: d, kind: kafka, servers: [h], tls: {ca: x}}\n": "tls.ca: unknown key: did you mean `ca",
    "projects:\n- {project: 1, source: []}\n": "3: projects[0].source: unknown key: did you mean `sources`?",
    "? [a, b]\n: c\n": "2: a key should be one word",
    "admin: {port: 1}\ndestinations:\n- {name: d, kind: pull, retry: {max_age: 1d}}\n": (
        "4: destinations[0].retry: kind pull sends nothing, its consumers fetch the events: remove this key"
    ),
    "admin: {port: 1}\ndestinations:\n- {name: d, kind: pull, batch: {max: 5}}\n": (
        "4: destinations[0].batch: kind pull sends nothing"
    ),
    "destinations:\n- {name: d, kind: pull}\n": "3: destinations[0].kind: needs `admin.port`, where consumers fetch",
    # twice
    "a: 1\nadmin: {}\nadmin: {}\n": "4: admin: is given twice: also in line 3",
    "projects:\n- a/b\n- c/d\n- a/b\n": "5: projects[2]: a/b is used twice: also by projects[0] (line 3)",
    "groups:\n- a\n- a\n": "4: groups[1]: a is used twice: also by groups[0] (line 3)",
    "destinations:\n- name: d\n  url: https://h\n- url: https://h\n  name: d\n": "6: destinations[1].name: d is used",
    "destinations:\n- {name: d, kind: file, path: x}\n- {name: e, kind: file, path: ./x}\n": (
        "4: destinations[1].path: is the same file as destinations[0].path: each needs its own (line 3)"
    ),
    "destinations:\n- {name: d, kind: file, path: ledger.db}\n": "3: destinations[0].path: is the same file as ledge",
    "destinations:\n- {name: d, kind: sql, url: 'sqlite:///ledger.db'}\n": (
        "3: destinations[0].url: is the same file as ledger.path: each needs its own"
    ),
    "destinations:\n- {name: d, kind: sql, url: 'sqlite:///x'}\n- {name: e, kind: file, path: x}\n": (
        "4: destinations[1].path: is the same file as destinations[0].url: each needs its own (line 3)"
    ),
    # ports
    "admin:\n  port: 8080\n": "3: admin.port: 8080 is already used by receiver.port: each needs its own port",
    "admin: {port: 9}\nmetrics:\n  host: 0.0.0.0\n  port: 9\n": "5: metrics.port: 9 is already used by admin.port: e",
    "metrics: {host: localhost, port: 8080}\n": "2: metrics.port: 8080 is already used by receiver.port",
    "admin: {host: '0.0.0.0:80', token: 0123456789abcdef, port: 1}\n": "2: admin.host: should be an address or a nam",
    # kinds of values
    "reconcile: {concurrency: many}\n": "2: reconcile.concurrency: should be a whole number",
    "reconcile: {concurrency: 1.5}\n": "2: reconcile.concurrency: should be a whole number",
    "reconcile: {concurrency: 0}\n": "2: reconcile.concurrency: should be 1 or more",
    "reconcile: {concurrency: 65}\n": "2: reconcile.concurrency: should be 64 or less",
    "reconcile: {reenable_hooks: maybe}\n": "2: reconcile.reenable_hooks: should be true or false",
    "reconcile: {sources: [hook-log]}\n": "2: reconcile.sources[0]: should be one of hook_log, project_events",
    "reconcile: {sources: [pipline]}\n": "feature_flags: did you mean pipelines?",
    "gitlab: {rate_share: half}\n": "2: gitlab.rate_share: should be a number",
    "gitlab: {rate_share: 0}\n": "2: gitlab.rate_share: should be more than 0",
    "gitlab: {url: 7}\n": "2: gitlab.url: should be text: put it in quotes",
    "gitlab: {url: [a]}\n": "2: gitlab.url: should be text",
    "gitlab: a\n": "2: gitlab: should be a section: keys, each with a value",
    "projects: a/b\n": "2: projects: should be a list, like `[a, b]`",
    "projects:\n- a/b\n-\n": "4: projects[1]: should be a project's numeric id or its path",
    "destinations:\n- d\n": "3: destinations[0]: should be a section: keys, each with a value",
    "destinations:\n- {name: d, url: https://h, type: alarms}\n": "should be one of events, alerts: did you mean al",
    "destinations:\n- {name: d, kind: htp}\n": "3: destinations[0].kind: there is no kind 'htp': did you mean 'http'",
    "destinations:\n- {name: d, kind: kafka, servers: []}\n": "3: destinations[0].servers: is empty: give at least o",
    "destinations:\n- {name: d, kind: kafka, servers: [h], tls: 1}\n": "tls: should be a section",
    "destinations:\n- name: d\n  url: https://h\n  type: alerts\n  filter:\n    projects: [1]\n": "6: destinations[0",
    # nothing where something should be
    "gitlab: {token: ''}\n": "2: gitlab.token: is empty: give it a value, or remove the key",
    "gitlab: {url: }\n": "2: gitlab.url: is empty: give it a value, or remove the key",
    "admin: {port: 1, token: ''}\n": "2: admin.token: is empty",
    "admin: {host: ''}\n": "2: admin.host: is empty",
    # variables
    "gitlab: {token: '${GITLAB TOKEN}'}\n": "2: gitlab.token: '${GITLAB TOKEN}' names no environment variable",
    "gitlab: {token: '${GITLAB-TOKEN}'}\n": "like ${NAME} or ${NAME:-default}; for a dollar sign, write `$$`",
    "gitlab: {token: '${GITLAB_TOKEN'}\n": "2: gitlab.token: '${GITLAB_TOKEN' names no environment variable",
    "gitlab: {token: '${}'}\n": "2: gitlab.token: '${}' names no environment variable",
    "gitlab: {token: $GITLAB_TOKEN}\n": "2: gitlab.token: write ${GITLAB_TOKEN} for the environment variable",
    "destinations:\n- {name: d, url: https://h, headers: {A: Bearer $KEY}}\n": "headers.A: write ${KEY} for the envi",
    "gitlab: {token: '${NOPE}'}\n": "gitlab.token: the environment variable NOPE is not set (and has no `:-default`",
    "gitlab: {token: '${BLANK}'}\n": "gitlab.token: the environment variable BLANK is empty (and has no `:-default`",
    # addresses
    "gitlab:\n  url: https://h/gitlab/api/v4/\n": "3: gitlab.url: should be GitLab's own URL, without /api/v4/: http",
    "gitlab:\n  url: https://h/api\n": "3: gitlab.url: should be GitLab's own URL, without /api: https://h",
    "gitlab:\n  url: https://h/?x=1\n": "3: gitlab.url: should be a URL like https://host, with no `?` and no `#`",
    "gitlab:\n  url: gitlab.com\n": "3: gitlab.url: should be a URL like https://host/path",
    # files
    "gitlab: {ca_file: no.pem}\n": "no.pem: can't be read: No such file or directory",
    "gitlab: {ca_file: config.yaml}\n": "config.yaml: holds no certificates (PEM)",
    "gitlab: {ca_file: .}\n": "2: gitlab.ca_file: ",
    "gitlab: {token_file: .}\n": "2: gitlab.token_file: can't read ",
    "destinations:\n- {name: d, url: https://h, tls: {ca_file: no.pem}}\n": "3: destinations[0].tls.ca_file: no.pem:",
    "destinations:\n- {name: d, url: https://h, tls: {cert_file: no.pem}}\n": "3: destinations[0].tls.cert_file: no.",
    "destinations:\n- {name: d, url: https://h, tls: {cert_file: config.yaml}}\n": "tls.cert_file: config.yaml: can'",
    "destinations:\n- {name: d, url: https://h, tls: {key_file: config.yaml}}\n": "tls.key_file: is the key of a cli",
    "destinations:\n- {name: d, kind: nats, servers: [h], credentials_file: x}\n": "credentials_file: x: can't be re",
    # YAML
    "projects:\n\t- 1\n": "3: not valid YAML: found character '\\t' that cannot start any token: indent with spaces",
    "gitlab: {url: 'x}\n": "3: not valid YAML: found unexpected end of stream: is a quote or a bracket not closed?",
    "a: b: c\n": "2: not valid YAML: mapping values are not allowed here: is this line indented as those around it?",
    "a: *b\n": "2: not valid YAML: found undefined alias 'b'",
    "a: !!python/object:os.system {}\n": "2: a: unknown key",
    "gitlab: {url: !secret x}\n": "2: gitlab.url: unknown tag `!secret`",
    "gitlab: {url: 2026-99-99}\n": "2: gitlab.url: can't be read: month must be in 1..12; if it is text, put it in",
    "projects: &a [*a]\n": "2: projects[0]: contains itself",
    "a: \x00\n": "2: not valid YAML: the character U+0000",
    "a: " + "[" * 3000 + "]" * 3000 + "\n": "2: is nested too deeply",
}


@pytest.mark.parametrize(("text", "expected"), WRONG.items(), ids=range(len(WRONG)))
def test_a_mistake_is_told_with_its_place_and_what_to_do(tmp_path: Path, text: str, expected: str) -> None:
    found = told(tmp_path, HOOK + text, BLANK="")
    assert any(expected in f"config.yaml:{line.partition(':')[2]}" for line in found), found
    for line in found:
        assert re.match(r"config\.yaml:\d+: ", line)
        assert not LIBRARIES.search(line), line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("receiver:\n  # all of it\nprojects: []\n", "1: receiver: is empty: its content is commented out"),
        ("receiver:\n  hooks:\n  # - name: x\n", "2: receiver.hooks: is empty: its content is commented out"),
        ("receiver:\nhooks:\n- token: t\n", "2: hooks: unknown key here: it is a key of `receiver`"),
        ("receiver:\n  hooks: []\n", "2: receiver.hooks: is empty: give at least one"),
        ("receiver:\n  hooks:\n  - token: ''\n", "3: receiver.hooks[0].token: is empty"),
        ("receiver:\n  hooks:\n  - {token: a}\n  - {token: b}\n", "4: receiver.hooks[1]: default is used twice"),
        ("receiver:\n  url: https://h/webhooks/gitlab/default\n", "without /webhooks/gitlab/default: https://h"),
        ("# all of it\n", "1: is empty: `gitlab-reconciler init` writes one"),
        ("", "1: is empty"),
        ("- 1\n", "1: should be a mapping"),
    ],
)
def test_nothing_where_something_should_be(tmp_path: Path, text: str, expected: str) -> None:
    found = told(tmp_path, text)
    assert any(expected in line for line in found), found
    assert not any(LIBRARIES.search(line) for line in found), found


def test_what_has_nothing_below_it_is_as_if_it_were_not_there(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    sections = "gitlab projects groups ledger reconcile metrics admin retention destinations".split()
    file.write_text(HOOK + "".join(f"{name}:\n  # nothing\n" for name in sections))
    empty = load(file, {})
    file.write_text(HOOK)
    assert empty == load(file, {})
    assert empty.ledger.path == tmp_path / "ledger.db"
    entry = "destinations: [{name: d, url: https://h, filter: , headers: , retry: , breaker: , tls: }]\n"
    file.write_text(HOOK + entry)
    load(file, {})


def test_a_variable_without_a_value_is_as_if_its_key_were_not_there(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(HOOK + "gitlab: {url: '${U:-}', timeout: '${T:-}', token_file: '${F:-}'}\n")
    assert load(file, {}).gitlab.url == "https://gitlab.com"
    file.write_text(HOOK + "gitlab: {url: 'https://$$h', token: 'a$b$$$${c}-$$D'}\n")
    token = load(file, {}).gitlab.token
    assert token is not None
    assert token.get_secret_value() == "a$b$${c}-$D"


@pytest.mark.parametrize(
    "sections", ["admin: {port: 0}", "metrics: {host: 127.0.0.2, port: 8080}", "admin: {port: 81}"]
)
def test_ports_that_do_not_clash(tmp_path: Path, sections: str) -> None:
    (tmp_path / "config.yaml").write_text(f"receiver: {{port: 8080, hooks: [{{token: t}}]}}\n{sections}\n")
    load(tmp_path / "config.yaml", {})


def test_a_folder_and_a_file_that_can_t_be_read(tmp_path: Path) -> None:
    done = run("check", "-c", str(tmp_path))
    assert (done.returncode, done.stderr.strip()) == (
        2,
        f"{tmp_path}: is a folder: name the file in it, like {tmp_path / 'config.yaml'}",
    )
    done = run("check", "-c", str(tmp_path / "none.yaml"))
    assert done.returncode == 2
    assert "none.yaml: does not exist: `gitlab-reconciler setup` or `init`" in done.stderr
    (tmp_path / "latin.yaml").write_bytes(b"a: 1\nb: \xe4\n")
    done = run("check", "-c", str(tmp_path / "latin.yaml"))
    assert (done.returncode, "latin.yaml:2: is not UTF-8 text" in done.stderr) == (2, True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_of_somebody_else(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(HOOK)
    (tmp_path / "config.yaml").chmod(0)
    with pytest.raises(ConfigError, match="can't be read by this user"):
        load(tmp_path / "config.yaml")


@pytest.mark.parametrize("token", ["secret", "hunter2", "abc", "a" * 40, "12" * 20])
def test_tokens_that_can_be_guessed(token: str) -> None:
    assert guessable(SecretStr(token))


def test_others_and_keys() -> None:
    assert not guessable(SecretStr("9f86d081884c7d65"))
    assert guessable_key(SecretStr("whsec_YWJj"))
    assert not guessable_key(SecretStr("whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"))


GOOD: dict[str, Any] = {
    "gitlab": {"url": "https://gitlab.com", "token": "x", "timeout": "30s", "rate_share": 0.5},
    "projects": [278964, "a/b", {"project": "c/d", "sources": ["hook_log"]}],
    "groups": ["g"],
    "receiver": {
        "port": 8080,
        "max_body": "25MiB",
        "hooks": [{"name": "h", "token": "t", "triggers": ["push_events"]}],
    },
    "ledger": {"path": "ledger.db"},
    "reconcile": {"interval": "60s", "concurrency": 4, "sources": ["hook_log"], "reenable_hooks": True},
    "metrics": {"port": 9464},
    "admin": {"port": 8081, "token": "0123456789abcdef"},
    "retention": {"events": "365d", "runs": None},
    "destinations": [
        {
            "name": "a",
            "url": "https://h/x",
            "headers": {"A": "b"},
            "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "filter": {"kinds": ["push"], "branches": ["main"], "expression": "body.x == 'y'"},
            "transform": {"template": "{{ event.title }}"},
            "retry": {"schedule": ["5s"]},
            "rate_limit": "10/s",
            "allow_private": ["10.0.0.0/8"],
            "start_from": "now",
        },
        {"name": "b", "kind": "file", "path": "x"},
        {"name": "c", "kind": "nats", "servers": ["h:1"], "subject": "a.{kind}", "tls": {}},
        {"name": "d", "kind": "kafka", "servers": ["h:1"], "tls": True, "sasl_mechanism": "PLAIN", "user": "u",
         "password": "p"},
        {"name": "e", "kind": "redis", "url": "redis://h/0", "replicas": 0},
        {"name": "g", "kind": "sql", "url": "sqlite:///e.db", "table": "a.b"},
        {"name": "f", "kind": "rabbitmq", "url": "amqp://h/", "type": "alerts"},
    ],
}  # fmt: skip


def ways(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The way to every value."""
    if path:
        yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, below in inner:
        yield from ways(below, (*path, step))


WAYS = list(ways(GOOD))
VALUES: st.SearchStrategy[Any] = (
    st.sampled_from([None, True, 0, -1, 1.5, 10**30, "", " ", "x", "${NOPE}", "${A B}", "$X", "${X:-}", [], {}, [[]],
                     [None], {"a": 1}, {"1": []}, "a\nb", "é", "9" * 5000, "0s", "99999d", "1/s", "{", "{{", "whsec_",
                     "https://[", "http://h:99999", "a/b", "nats", "2026-99-99", "*", float("nan"), float("inf")])
    | st.text(max_size=8)
    | st.integers()
)  # fmt: skip


@pytest.mark.long
@settings(max_examples=tries(80), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(
        st.tuples(st.sampled_from(WAYS), st.sampled_from(["set", "rename", "drop"]), VALUES), max_size=4
    ),
    cut=st.none() | st.integers(0, 1500),
    junk=st.sampled_from(["", "", "\t", ": ", "- ", "}", "'", "\x00", "&a *a", "!x ", "%", "<<: "]),
)
@example(changes=[], cut=None, junk="")
def test_no_config_is_too_wrong_for_words(
    tmp_path: Path, changes: list[tuple[tuple[str | int, ...], str, Any]], cut: int | None, junk: str
) -> None:
    text = yaml.safe_dump(changed(changes), sort_keys=False)
    if cut is not None:
        text = text[:cut] + junk + text[cut:] if junk else text[:cut]
    file = tmp_path / "config.yaml"
    file.write_text(text, encoding="utf-8")
    try:
        load(file, {})
    except ConfigError as error:
        for mistake in error.mistakes:
            assert 1 <= mistake.line <= text.count("\n") + 2
            without_values = re.sub(r"'[^']*'|\"[^\"]*\"", "", str(mistake.what))
            assert not LIBRARIES.search(without_values), mistake
            assert "can't be checked" not in mistake.what
    else:
        assert changes or cut is not None or load(file, {}).destinations


def changed(changes: list[tuple[tuple[str | int, ...], str, Any]]) -> dict[str, Any]:
    """The good config with these changes, as far as they can be made one after the other."""
    made = copy.deepcopy(GOOD)
    for (*before, last), how, value in changes:
        place: Any = made
        try:
            for step in before:
                place = place[step]
            old = place[last]
            if how == "set":
                place[last] = value
                continue
            del place[last]
            if how == "rename":
                place[f"{last}{value}" if isinstance(value, str) else "renamed"] = old
        except (LookupError, TypeError):
            continue
    return made
