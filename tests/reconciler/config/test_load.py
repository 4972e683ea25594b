"""`config.yaml`: what is valid, and how mistakes are told."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from receiver.guard import HookGuard
from reconciler.cli.schema import schema_text
from reconciler.config.destination_kinds import BUILT_IN
from reconciler.config.load import ConfigError, load
from reconciler.config.models import Config, SourceName, Trigger
from reconciler.forwarding.kinds.http import HttpDestination
from reconciler.sources.table import SOURCES

ROOT = Path(__file__).parents[3]
MINIMAL = {"receiver": {"hooks": [{"token": "t"}]}}


def write(folder: Path, content: Any) -> Path:
    file = folder / "config.yaml"
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return file


def mistakes(folder: Path, content: Any, **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        load(write(folder, content), environ)
    return [str(mistake).replace(str(folder) + "/", "") for mistake in raised.value.mistakes]


def test_the_sample_is_valid_as_it_stands() -> None:
    config = load(ROOT / "config.yaml", {})
    assert config.gitlab.token is None
    assert config.receiver.port == 8080
    assert config.ledger.path == ROOT / "ledger.db"


def test_paths_are_relative_to_the_config_wherever_it_is_read_from(tmp_path: Path) -> None:
    assert load(write(tmp_path, MINIMAL), {}).ledger.path == tmp_path / "ledger.db"
    named = MINIMAL | {"ledger": {"path": "x/y.db"}, "destinations": [{"name": "f", "kind": "file", "path": "z"}]}
    config = load(write(tmp_path, named), {})
    assert config.ledger.path == tmp_path / "x/y.db"
    destination: Any = config.destinations[0]
    assert destination.path == tmp_path / "z"


def test_the_sample_s_commented_destinations_are_valid_too(tmp_path: Path) -> None:
    text = (ROOT / "config.yaml").read_text().replace("destinations: []\n", "destinations:\n")
    head, tail = text.split("destinations:\n")
    config = load(
        write(tmp_path, head + "destinations:\n" + re.sub("^#  ", "  ", tail, flags=re.M)),
        {
            "AUDIT_TOKEN": "secret",
            "AUDIT_SECRET": "whsec_c2VjcmV0",
            "DATABASE_PASSWORD": "secret",
            "CHAT_WEBHOOK": "https://x",
        },
    )
    assert {one.kind for one in config.destinations} == set(BUILT_IN)
    destination = config.destinations[0]
    assert isinstance(destination, HttpDestination)
    assert destination.headers["Authorization"].get_secret_value() == "Bearer secret"
    assert destination.retry.max_age == 3 * 86_400_000
    defaults = Config.model_validate({**MINIMAL, "destinations": [{"name": "d", "url": "https://x"}]})
    assert destination.retry == defaults.destinations[0].retry  # the comments tell the truth
    assert destination.timeout == defaults.destinations[0].timeout
    assert destination.concurrency == defaults.destinations[0].concurrency
    assert destination.breaker == defaults.destinations[0].breaker


def test_the_sample_shows_every_key() -> None:
    text = (ROOT / "config.yaml").read_text()
    schema = json.loads(schema_text())
    keys = set(schema["properties"])
    for model in schema["$defs"].values():
        keys |= set(model.get("properties", ()))
    missing = {key for key in keys if f"{key}:" not in text and not key.endswith("_file")}
    assert missing == set()


def test_the_schema_in_docs_is_today_s() -> None:
    assert (ROOT / "docs" / "config.schema.json").read_text() == schema_text()
    assert "config.schema.json" in (ROOT / "config.yaml").read_text().splitlines()[0]


def test_all_mistakes_at_once_with_line_and_key(tmp_path: Path) -> None:
    told = mistakes(
        tmp_path,
        """\
gitlab:
  url: gitlab.com
  tokn: x
projects: [12, abc, a/b, true]
receiver:
  port: 99999
  hooks:
    - name: a b
      token: ${NOPE}
    - name: open
destinations:
  - name: x
    url: ftp://x
    timeout: soon
    secret: whsec_%%
    retry: {initial_delay: 0s}
  - url: https://ok
""",
    )
    assert told == [
        "config.yaml:2: gitlab.url: should be a URL like https://host/path",
        "config.yaml:3: gitlab.tokn: unknown key: did you mean `token`?",
        "config.yaml:4: projects[1]: should be a project's numeric id or its path like `group/project`",
        "config.yaml:4: projects[3]: should be a project's numeric id or its path like `group/project`",
        "config.yaml:6: receiver.port: should be 65535 or less",
        "config.yaml:8: receiver.hooks[0].name: should begin with a letter or a digit, and may hold letters, digits "
        "and `.`, `_`, `-`, 64 at most",
        "config.yaml:9: receiver.hooks[0].token: the environment variable NOPE is not set "
        "(and has no `:-default` here)",
        "config.yaml:10: receiver.hooks[1]: needs a `token` or a `signing_token`: anyone could post events otherwise",
        "config.yaml:13: destinations[0].url: should be a URL like https://host/path",
        "config.yaml:14: destinations[0].timeout: should be a duration with a unit, like 500ms, 90s, 5m, 2h or 3d",
        "config.yaml:15: destinations[0].secret: should be a Standard Webhooks secret: `whsec_` and base64",
        "config.yaml:16: destinations[0].retry.initial_delay: should be longer than nothing and shorter than "
        "ten years",
        "config.yaml:17: destinations[1].name: is missing",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("receiver: [", "config.yaml:1: not valid YAML"),
        ("", "config.yaml:1: is empty: `gitlab-reconciler init` writes one"),
        ("- 1", "config.yaml:1: should be a mapping"),
        ("{}", "config.yaml:1: receiver: is missing"),
        ("receiver: {hooks: [{token: a}, {token: b}]}", "receiver.hooks[1]: default is used twice"),
        ("a: 1\na: 2", "config.yaml:2: a: is given twice: also in line 1"),
        ("receiver: {hooks: [{token: a}]}\nprojects: [1, 1]", "projects[1]: 1 is used twice"),
        ("x: !!python/object:os.system {}", "config.yaml:1: x"),
    ],
)
def test_other_mistakes(tmp_path: Path, text: str, expected: str) -> None:
    assert any(expected in line for line in mistakes(tmp_path, text))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="gitlab-reconciler setup` or `init"):
        load(tmp_path / "none.yaml")


def test_the_environment_and_its_defaults(tmp_path: Path) -> None:
    text = "receiver: {port: '${PORT:-1234}', hooks: [{token: 'a-${T:-b}$$c'}]}\ngitlab: {token: '${G:-}'}\n"
    file = write(tmp_path, text)
    plain, filled = load(file, {}), load(file, {"PORT": "99", "T": "x", "G": "g"})
    assert (plain.receiver.port, filled.receiver.port) == (1234, 99)
    assert plain.receiver.hooks[0].token is not None
    assert plain.receiver.hooks[0].token.get_secret_value() == "a-b$c"
    assert plain.gitlab.token is None
    assert filled.gitlab.token is not None


def test_secrets_from_files(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("from-a-file\n")
    config = load(write(tmp_path, {**MINIMAL, "gitlab": {"token_file": "secret"}}))
    assert config.gitlab.token is not None
    assert config.gitlab.token.get_secret_value() == "from-a-file"
    assert "from-a-file" not in repr(config)
    for given_keys, expected in (
        ({"token_file": "nowhere"}, "gitlab.token_file: can't read"),
        ({"token_file": "secret", "token": "x"}, "gitlab.token_file: give either"),
    ):
        assert any(expected in line for line in mistakes(tmp_path, {**MINIMAL, "gitlab": given_keys}))


anything: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=12)
    | st.sampled_from(["5m", "${X}", "whsec_", "a/b"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                "gitlab receiver hooks token token_file url projects name port destinations retry".split()
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=anything)
def test_no_config_makes_a_traceback(tmp_path: Path, content: Any) -> None:
    try:
        load(write(tmp_path, content), {})
    except ConfigError as error:
        assert error.mistakes
        assert all(str(mistake).startswith(str(tmp_path)) for mistake in error.mistakes)


@given(st.integers(1, 10**6), st.sampled_from(["ms", "s", "m", "h"]))
def test_durations_round_trip(number: int, unit: str) -> None:
    millis = number * {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}[unit]
    made = {**MINIMAL, "reconcile": {"interval": f"{number}{unit}"}}
    if millis <= 3650 * 86_400_000:
        assert Config.model_validate(made).reconcile.interval == millis


@pytest.mark.parametrize(
    ("section", "line"),
    [
        (
            "retention: {events: 365}",
            "retention.events: should be a duration with a unit, like 500ms, 90s, 5m, 2h or 3d",
        ),
        ("reconcile: {interval: 60}", "reconcile.interval: should be a duration with a unit, like 500ms"),
        ("reconcile: {interval: '60'}", "reconcile.interval: should be a duration with a unit, like 500ms"),
        ("reconcile: {interval: 1.5}", "reconcile.interval: should be a duration with a unit, like 500ms"),
        ("gitlab: {timeout: '${BARE}'}", "gitlab.timeout: should be a duration with a unit, like 500ms"),
        (
            "destinations: [{name: a, url: 'https://example.com', timeout: 10}]",
            "destinations[0].timeout: should be a duration with a unit",
        ),
        (
            "destinations: [{name: a, url: 'https://example.com', retry: {schedule: [5s, 60]}}]",
            "destinations[0].retry.schedule[1]: should be a duration with a unit",
        ),
        (
            "destinations: [{name: a, url: 'https://example.com', rate_limit: 10}]",
            "destinations[0].rate_limit: should be a rate with a unit, like 10/s, 600/m or 1000/h; 10 has none",
        ),
        (
            "receiver: {max_body: 25, hooks: [{token: t}]}",
            "receiver.max_body: should be a size with a unit, like 65536B, 512KiB or 25MiB; 25 has none",
        ),
    ],
)
def test_a_number_without_a_unit_is_refused(tmp_path: Path, section: str, line: str) -> None:
    """`events: 365` once was 365 milliseconds, and everything delivered was pruned within a minute."""
    hooks = "" if section.startswith("receiver") else "receiver: {hooks: [{token: t}]}\n"
    file = tmp_path / "config.yaml"
    file.write_text(hooks + section + "\n")
    with pytest.raises(ConfigError) as caught:
        load(file, {"BARE": "30"})
    assert [line in str(mistake) for mistake in caught.value.mistakes] == [True]


def test_the_schema_is_json_schema_and_knows_the_sample() -> None:
    schema = json.loads(schema_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    sample = yaml.safe_load((ROOT / "config.yaml").read_text())
    assert list(validator.iter_errors(sample)) == []
    spelled = [278964, "group/project", {"project": "group/other", "sources": ["hook_log"]}]
    assert list(validator.iter_errors(sample | {"projects": spelled, "groups": ["group", 7]})) == []
    wrong: dict[str, Any]
    for wrong in (
        {"prot": 1},
        {"projects": [{"sources": []}]},
        {"projects": [{"project": 1, "sources": ["x"]}]},
        {"destinations": [{"name": "d"}]},
        {"destinations": [{"name": "d", "kind": "file", "url": "https://x"}]},
        {"destinations": [{"name": "d", "kind": "nats", "servers": [], "x": 1}]},
        {"reconcile": {"interval": "soon"}},
    ):
        assert list(validator.iter_errors(sample | wrong))


def test_a_project_may_have_settings_of_its_own() -> None:
    spelled = [278964, "group/project", {"project": "group/other", "sources": ["hook_log"]}]
    config = Config.model_validate({**MINIMAL, "projects": spelled})
    assert [(entry.project, entry.sources) for entry in config.projects] == [
        (278964, None),
        ("group/project", None),
        ("group/other", ["hook_log"]),
    ]
    with pytest.raises(ValueError, match="is used twice"):
        Config.model_validate({**MINIMAL, "projects": ["a/b", {"project": "a/b"}]})


def test_the_sources_of_the_config_are_those_of_the_table() -> None:
    assert list(get_args(SourceName)) == [entry.name for entry in SOURCES]
    known = set(get_args(Trigger))
    assert {trigger for entry in SOURCES for trigger in entry.triggers} <= known


def deep(levels: int, opening: str, closing: str) -> str:
    return opening * levels + closing * levels


NESTED = deep(30, "{% for a in b %}", "{% endfor %}")  # more than Python nests


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("url: 'https://x:31x28/'", "url: should be a URL like https://host/path: is the port a number?"),
        ("url: 'https://x:0/'", "url: should be a URL like https://host/path: there is no port 0"),
        ("url: 'https://x:70000/'", "url: should be a URL like"),
        ("url: 'https://:80/'", "url: should be a URL like"),
        ("url: 'https://[::1/'", "url: should be a URL like"),
        ("url: 'https://a b/'", "url: should be a URL like"),
        ("url: 'https://a..b/'", "'a..b' is not a valid host name"),
        ('url: "https://x/\\n"', "url: should be a URL like"),
        ("{url: 'https://x', proxy: 'http://proxy:31x28'}", "proxy: should be a URL like"),
        ("{url: 'https://x', secret: whsec_====}", "secret: should be a Standard Webhooks secret"),
        ("{url: 'https://x', headers: {X-Team: Müller}}", "headers.X-Team: can't be sent in a header"),
        ('{url: "https://x", headers: {A: "b\\r\\nC: d"}}', "headers.A: can't be sent in a header"),
        ("{url: 'https://x', headers: {'A:': b}}", "is not a valid header name"),
        ("{url: 'https://x', transform: {template: '{{ a | nonsense }}'}}", "No filter named 'nonsense'"),
        ("{url: 'https://x', transform: {template: '{% if a is nonsense %}{% endif %}'}}", "No test named"),
        (
            "{url: 'https://x', transform: {template: '{{ a', content_type: text/plain}}",
            "not a valid Jinja2 template",
        ),
        ("{url: 'https://x', transform: {template: a, content_type: 'text/plän'}}", "content_type: can't be sent"),
        (
            f"{{url: 'https://x', transform: {{template: '{deep(30, '{% for a in b %}', '{% endfor %}')}'}}}}",
            "Jinja2",
        ),
        ("{url: 'https://x', filter: {expression: 'nonsense(a)'}}", "there is no function nonsense()"),
        ("{url: 'https://x', filter: {expression: 'a[?startswith(b, c)]'}}", "did you mean starts_with()?"),
        ("{url: 'https://x', filter: {expression: 'sort_by(a)'}}", "sort_by() takes 2 arguments, not 1"),
        ("{url: 'https://x', filter: {expression: 'merge()'}}", "merge() takes at least 1 arguments, not 0"),
        (f"{{url: 'https://x', filter: {{expression: '{deep(5000, '(', ')')}'}}}}", "not valid JMESPath"),
        ("{kind: nats, servers: ['nats://x:42x2']}", "servers[0]: should be a URL like nats://"),
        ("{kind: nats, servers: ['http://x']}", "servers[0]: should be a URL like nats://"),
        ("{kind: kafka, servers: ['x:90x2']}", "servers[0]: should be an address like 127.0.0.1:9092"),
        ("{kind: kafka, servers: ['kafka://x:9092']}", "servers[0]: should be an address like"),
        ("{kind: rabbitmq, url: 'amqp://x:56x2/'}", "url: should be a URL like amqp://"),
        ("{kind: rabbitmq, url: 'http://x/'}", "url: should be a URL like amqp://"),
        ("{kind: redis, url: 'redis://:pass/word@x'}", "url: should be a URL like redis://"),
        ("{kind: redis, url: 'x:6379'}", "url: should be a URL like redis://"),
    ],
)
def test_what_could_not_be_built_is_a_mistake_in_the_config(tmp_path: Path, keys: str, expected: str) -> None:
    entry = keys[1:-1] if keys.startswith("{") else keys
    text = f"receiver: {{hooks: [{{token: t}}]}}\ndestinations:\n  - {{name: d, {entry}}}\n"
    told = mistakes(tmp_path, text)
    assert any(expected in line for line in told), told
    assert all(line.startswith("config.yaml:3: destinations[0]") for line in told)
    assert "pass" not in "".join(told).replace("passed", "")


@pytest.mark.parametrize(
    "text",
    [
        "receiver: " + deep(3000, "[", "]"),
        "a: &a [*a]\nreceiver: {hooks: [{token: t}]}\n",
        "receiver: {port: '${HUGE}', hooks: [{token: t}]}\n",
    ],
    ids=["deep", "in itself", "a number too long"],
)
def test_a_config_that_no_check_foresaw_is_no_traceback(tmp_path: Path, text: str) -> None:
    assert mistakes(tmp_path, text, HUGE="9" * 5000)


def test_a_ca_file_is_looked_at_when_the_config_is_read(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("")
    for name in ("nothere.pem", "empty.pem"):
        told = mistakes(tmp_path, {**MINIMAL, "gitlab": {"ca_file": name}})
        assert [line.split(": ")[1] for line in told] == ["gitlab.ca_file"]
        assert name in told[0]


def test_a_signing_token_needs_no_padding(tmp_path: Path) -> None:
    hooks = [{"signing_token": "whsec_YWJjZA"}, {"name": "b", "signing_token": "YWJjZA=="}]
    config = load(write(tmp_path, {"receiver": {"hooks": hooks}}), {})
    for hook in config.receiver.hooks:
        HookGuard(hook)


def test_sound_addresses_are_taken(tmp_path: Path) -> None:
    destinations: list[dict[str, Any]] = [
        {"name": "a", "url": "https://münchen.de:8443/x?y=z", "proxy": "http://user:p%40ss@[::1]:3128"},
        {"name": "b", "kind": "nats", "servers": ["nats://u:p@x:4222", "tls://x", "x:4222"]},
        {"name": "c", "kind": "kafka", "servers": ["x:9092", "[::1]:9092", "x"]},
        {"name": "d", "kind": "rabbitmq", "url": "amqps://u:p@x:5671/v%2Fh"},
        {"name": "e", "kind": "redis", "url": "unix:///run/redis.sock"},
        {"name": "g", "kind": "sql", "url": "postgresql+psycopg://u:p%40ss@[::1]:5433/d?sslmode=require"},
        {"name": "f", "url": "http://internal_host/", "transform": {"jmespath": "merge(a, b, `{}`)"}},
    ]
    assert len(load(write(tmp_path, {**MINIMAL, "destinations": destinations}), {}).destinations) == 7
