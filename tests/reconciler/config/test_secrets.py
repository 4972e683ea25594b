"""Secrets in the config: any text is one, and what can't work is refused where it stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from receiver.guard import HookGuard
from reconciler.config.load import ConfigError, load
from reconciler.config.models import Config

DESTINATION = "destinations: [{{name: d, url: '{url}', allow_private: true}}]\n"


def read(folder: Path, text: str, **environ: str) -> Config:
    file = folder / "config.yaml"
    file.write_text(text)
    return load(file, environ)


def hook(folder: Path, lines: str, **environ: str) -> Config:
    return read(folder, f"receiver:\n  hooks:\n    - name: default\n      {lines}\n", **environ)


@pytest.mark.parametrize("secret", ["123456", "007123", "1e5", "true", "2026-10-01", "abc", "9" * 40])
def test_a_secret_of_any_kind_comes_from_the_environment_as_it_is(tmp_path: Path, secret: str) -> None:
    token = hook(tmp_path, "token: ${W}", W=secret).receiver.hooks[0].token
    assert token is not None
    assert token.get_secret_value() == secret


@pytest.mark.parametrize("written", ["123456", "007123", "1.5", "yes", "2026-10-01"])
def test_one_that_yaml_reads_otherwise_has_to_be_quoted(tmp_path: Path, written: str) -> None:
    with pytest.raises(ConfigError, match="put it in quotes"):
        hook(tmp_path, f"token: {written}")
    assert hook(tmp_path, f"token: '{written}'")


def test_numbers_come_from_the_environment_too(tmp_path: Path) -> None:
    lines = "token: t\n  port: ${P}\nprojects: ['${ID}', a/b]\ngroups: ['${ID}']\nreconcile: {concurrency: '${P}'}\n"
    found = hook(
        tmp_path, lines + "destinations: [{name: d, url: 'https://h', filter: {projects: ['${ID}']}}]", P="8", ID="42"
    )
    assert (found.receiver.port, found.reconcile.concurrency) == (8, 8)
    assert [entry.project for entry in found.projects] == [42, "a/b"]
    assert found.groups == [42]
    assert found.destinations[0].filter.projects == [42]


def test_a_hook_that_anyone_could_post_to_is_refused(tmp_path: Path) -> None:
    for lines in ("triggers: [push_events]", "token: ${NONE:-}", "token: ''"):
        with pytest.raises(ConfigError, match=r"hooks\[0\]"):
            hook(tmp_path, lines)


@pytest.mark.parametrize("token", ["whsec_YWJj", "whsec_YWJjZA", "whsec_YWJjZA==", "YWJjZA"])
def test_a_signing_token_without_its_padding_works(tmp_path: Path, token: str) -> None:
    HookGuard(hook(tmp_path, f"signing_token: {token}").receiver.hooks[0])


@pytest.mark.parametrize("token", ["whsec_", "whsec_%", "whsec_YWJjZ", "no base64"])
def test_one_that_is_none_is_refused(tmp_path: Path, token: str) -> None:
    with pytest.raises(ConfigError, match=r"signing_token.*whsec_"):
        hook(tmp_path, f"signing_token: {token}")


@pytest.mark.parametrize("token", ["glpat-ü", "glpat-a\\nb", "${T}"])
def test_a_gitlab_token_that_can_t_be_sent_is_refused_and_not_shown(tmp_path: Path, token: str) -> None:
    text = f'gitlab: {{token: "{token}"}}\nreceiver: {{hooks: [{{token: t}}]}}\n'
    with pytest.raises(ConfigError, match=r"gitlab.token: can't be sent") as refused:
        read(tmp_path, text, T=" glpat-c ")
    assert "glpat-" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "http://:80/",
        "http://h:port/",
        "http://h:99999/",
        "http://[::1",
        "https://a b/",
        "ftp://h/",
        "http://a..b/",
        "http://" + "a" * 70 + ".example/",
    ],
)
def test_a_url_that_no_request_can_be_made_of_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigError, match="should be a URL"):
        hook(tmp_path, "token: t\n" + DESTINATION.format(url=url))


@pytest.mark.parametrize(
    "url", ["http://müller.example/ä?q=1", "https://h:8443/x#y", "http://[::1]:80/", "http://127.0.0.1"]
)
def test_others_are_not(tmp_path: Path, url: str) -> None:
    assert hook(tmp_path, "token: t\n" + DESTINATION.format(url=url))


def test_an_admin_token_that_can_be_guessed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"16 characters or more.*openssl rand -hex 20") as refused:
        hook(tmp_path, "token: t\nadmin: {port: 1, token: hunter2}")
    assert "hunter2" not in str(refused.value)
    assert hook(tmp_path, "token: t\nadmin: {port: 1, token: 0123456789abcdef}").admin.token is not None


@pytest.mark.parametrize(
    ("tokens", "why"),
    [
        ("read_token: 0123456789abcdef", "needs a `token` too"),
        ("token: 0123456789abcdef, read_token: 0123456789abcdef", "should differ from `token`"),
        ("token: 0123456789abcdef, read_token: hunter2", "should have 16 characters or more"),
    ],
)
def test_a_token_that_may_only_read_is_another_one(tmp_path: Path, tokens: str, why: str) -> None:
    with pytest.raises(ConfigError, match=rf"admin\.read_token: {why}"):
        hook(tmp_path, f"token: t\nadmin: {{port: 1, {tokens}}}")
