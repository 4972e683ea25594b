"""Finding our webhooks, and how they should be set."""

from __future__ import annotations

import pytest

from reconciler.config.models import GitLab, HookConfig, Receiver
from reconciler.sources.client import Client
from reconciler.sources.errors import GitLabRefused
from reconciler.sources.hook_settings import TRIGGERS, differences, restrictions, settings
from reconciler.sources.hooks import Hooks
from tests.reconciler.sources.conftest import Scene


def hooks(scene: Scene, url: str | None = None) -> Hooks:
    receiver = Receiver.model_validate({"url": url, "hooks": [{"token": "t"}, {"name": "b", "token": "t"}]})
    return Hooks(scene.client, receiver)


@pytest.mark.parametrize(
    ("url", "base", "name"),
    [
        ("https://us.example/webhooks/gitlab", None, "default"),
        ("https://us.example/webhooks/gitlab/", None, "default"),
        ("https://us.example/webhooks/gitlab/default", None, "default"),
        ("https://us.example/webhooks/gitlab/b", None, "b"),
        ("https://us.example/webhooks/gitlab/c", None, None),
        ("https://us.example/prefix/webhooks/gitlab/b", None, "b"),
        ("https://us.example/other", None, None),
        ("https://us.example/webhooks/gitlab/b", "https://us.example", "b"),
        ("https://staging.example/webhooks/gitlab/b", "https://us.example", None),
        ("http://us.example/webhooks/gitlab/b", "https://us.example", None),
        ("https://us.example/prefix/webhooks/gitlab/b", "https://us.example/prefix/", "b"),
        ("https://us.example/webhooks/gitlab/b", "https://us.example/prefix", None),
        ("not a url", None, None),
    ],
)
def test_ours_are_known_by_their_url(scene: Scene, url: str, base: str | None, name: str | None) -> None:
    assert hooks(scene, base).name_of(url) == name


def test_they_are_asked_for_once_in_a_while(scene: Scene) -> None:
    scene.gitlab.add_hook(42, "https://us.example/webhooks/gitlab")
    ours = hooks(scene)
    before = scene.asked
    assert [hook.name for hook in ours.of(42)] == ["default"]
    ours.of(42)
    assert scene.asked - before == 1
    ours.of(42, fresh=True)
    assert scene.asked - before == 2


def test_a_refusal_is_remembered_too(scene: Scene) -> None:
    scene.gitlab.api.faults.forbidden = {42: 403}
    ours, before = hooks(scene), scene.asked
    for _ in range(3):
        with pytest.raises(GitLabRefused):
            ours.of(42)
    assert scene.asked - before == 1


def test_settings_are_all_that_gitlab_is_told() -> None:
    hook = HookConfig.model_validate(
        {"token": "secret", "signing_token": "whsec_c2VjcmV0", "triggers": ["push_events"]}
    )
    made = settings(hook, "https://us.example/webhooks/gitlab")
    assert made["token"] == "secret"
    assert made["signing_token"] == "whsec_c2VjcmV0"
    assert made["enable_ssl_verification"] is True
    assert [name for name in TRIGGERS if made[name]] == ["push_events"]
    everything = settings(HookConfig.model_validate({"token": "t"}), "http://us.example")
    assert all(everything[name] for name in TRIGGERS)
    assert everything["enable_ssl_verification"] is False


def test_differences_show_no_secrets_and_nothing_this_gitlab_does_not_know(scene: Scene) -> None:
    ours = hooks(scene, "https://us.example")
    wanted = settings(HookConfig.model_validate({"token": "secret"}), str(ours.url_of("default")))
    created = differences(wanted, None)
    assert {one.setting for one in created} == {"url", "enable_ssl_verification", *TRIGGERS}
    assert "secret" not in str(created)
    ours.create(42, wanted)
    [there] = ours.of(42)
    assert differences(wanted, there) == []
    hook = next(iter(scene.gitlab.courier.hooks.values()))
    assert hook.token == "secret"
    hook.triggers["push_events"] = False
    del hook.triggers["emoji_events"]  # as an older GitLab
    [there] = ours.of(42, fresh=True)
    assert [(one.setting, one.have, one.want) for one in differences(wanted, there)] == [("push_events", False, True)]
    ours.update(there, wanted)
    assert hook.triggers["push_events"]


def test_filters_of_every_name_are_shown(scene: Scene) -> None:
    """What newer versions call theirs is not known: whatever has a filter in its name."""
    hook = scene.gitlab.add_hook(42, "https://us.example/webhooks/gitlab")
    scene.gitlab.api.faults.mangle = lambda path, value: (
        [one | {"filter": {"issues_events": "x" * 500}, "notes_filter": ""} for one in value]
        if path.endswith("/hooks")
        else value
    )
    [there] = hooks(scene).of(42)
    [text] = restrictions(there)
    assert text.startswith('GitLab sends only events that pass a filter (filter: {"issues_events": "xxx')
    assert len(text) < 300
    assert hook.settings == {}


def test_making_one_is_not_tried_twice(scene: Scene) -> None:
    """Where GitLab may have done it, doing it again would make two."""
    scene.gitlab.api.faults.next = [(502, {})]
    client = Client(GitLab.model_validate({"url": scene.gitlab.url, "token": scene.gitlab.api.token}))
    with pytest.raises(Exception, match="POST /projects/42/hooks: HTTP 502"):
        client.post("/projects/42/hooks", {"url": "https://us.example"})
    assert client.requests == 1
    scene.gitlab.api.faults.next = [(429, {"Retry-After": "1"})]
    client.post("/projects/42/hooks", {"url": "https://us.example"})
    assert len(scene.gitlab.courier.hooks) == 1
