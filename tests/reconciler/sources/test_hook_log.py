"""GitLab's own log of our webhooks' deliveries."""

from __future__ import annotations

import json
import uuid

import pytest

from reconciler.config.models import Receiver
from reconciler.events import times
from reconciler.events.fingerprint import REDACTED, fingerprint
from reconciler.events.intervals import Interval
from reconciler.events.sighting import Precision
from reconciler.events.times import DAY, HOUR, MINUTE, SECOND, Millis
from reconciler.simulator.consumer import Consumer
from reconciler.simulator.hooks import Hook
from reconciler.sources import spool
from reconciler.sources.errors import GitLabRefused, NoHook
from reconciler.sources.hook_log import AT_A_TIME, HookLog
from reconciler.sources.hooks import Hooks
from tests.reconciler.sources.conftest import NOW, Scene

NOWHERE = "http://127.0.0.1:9/webhooks/gitlab"


def hook_at(scene: Scene, url: str = NOWHERE) -> Hook:
    hook = scene.gitlab.add_hook(42, url)
    hook.first_pause_s = 0  # never off: only its log matters here
    return hook


def happens(scene: Scene, at: int, *names: str) -> None:
    scene.now = Millis(at)
    for name in names:
        getattr(scene.world, name)(42)
    scene.gitlab.courier.settle()


def test_a_failed_delivery_is_told_as_the_webhook_itself(scene: Scene) -> None:
    hook = hook_at(scene)
    happens(scene, NOW - HOUR, "push")
    happening = scene.world.happenings[-1]
    scene.now = NOW
    [told] = scene.read("hook_log", NOW - 2 * HOUR)
    [(_, record)] = hook.log
    assert record["response_status"] == "internal error"
    assert (told.source, told.source_id) == ("webhook:default", record["request_headers"]["Idempotency-Key"])
    assert told.headers["X-Gitlab-Event"] == "Push Hook"
    assert told.recovery is not None
    assert told.recovery.by == "hook_log"
    assert told.recovery.redacted == ["commits[].author.email"]
    assert json.loads(told.payload)["commits"][0]["author"]["email"] == "[REDACTED]"
    assert happening.webhook is not None
    assert told.payload_sha == fingerprint(happening.webhook)  # of the bytes that were posted, e-mails and all


def test_what_arrived_is_in_the_log_too_and_stops_the_reading(scene: Scene) -> None:
    with Consumer() as up:
        hook = hook_at(scene, up.url.replace("/events", "/webhooks/gitlab"))
        for n in range(50, 0, -1):
            happens(scene, NOW - n * HOUR, "push")
    assert len(hook.log) == 50
    scene.now = NOW
    before = scene.asked
    told = scene.read("hook_log", NOW - 3 * HOUR)
    assert [s.seen_at for s in told] == [NOW - n * HOUR for n in (3, 2, 1)]
    assert scene.asked - before == 2  # the hooks, one page of the log


def test_twenty_a_page_and_all_of_them(scene: Scene) -> None:
    hook_at(scene)
    happens(scene, NOW - HOUR, *["push"] * 35)
    scene.now = NOW
    told = scene.read("hook_log", NOW - 2 * HOUR)
    assert len({s.source_id for s in told}) == 35


def test_after_seven_days_it_is_forgotten(scene: Scene) -> None:
    hook_at(scene)
    happens(scene, NOW - 8 * DAY, "push")
    happens(scene, NOW - 6 * DAY, "issue")
    scene.now = NOW
    assert [s.summary.kind for s in scene.read("hook_log", NOW - 10 * DAY)] == ["issue"]


def test_when_it_was_is_told_by_body_commits_or_neighbours(scene: Scene) -> None:
    hook_at(scene)
    happens(scene, NOW - 10 * HOUR, "issue")
    happens(scene, NOW - 8 * HOUR, "push")
    scene.now = Millis(NOW - 7 * HOUR)
    scene.world.switch_flag(42)  # tells no time at all
    scene.gitlab.courier.settle()
    happens(scene, NOW - 6 * HOUR, "issue")
    scene.now = NOW
    told = {s.summary.kind: s for s in scene.read("hook_log", NOW - DAY)}
    assert abs(told["push"].identity.happened_at - (NOW - 8 * HOUR)) < SECOND
    assert NOW - 8 * HOUR <= told["feature_flag"].identity.happened_at <= NOW - 6 * HOUR
    assert told["feature_flag"].identity.precision is Precision.ESTIMATED_UNVERIFIED
    assert told["push"].identity.precision is Precision.ESTIMATED_TIME
    assert told["issue"].identity.precision is Precision.GITLAB_TIME


def test_without_a_webhook_of_ours_there_is_no_log(scene: Scene) -> None:
    scene.gitlab.add_hook(42, "https://elsewhere.example.com/ci")
    scene.gitlab.add_hook(42, "https://elsewhere.example.com/webhooks/gitlab/not-ours")
    with pytest.raises(NoHook, match="hooks ensure"):
        scene.read("hook_log", NOW - HOUR)


@pytest.mark.parametrize("ending", ["/hooks", "/events"])
def test_a_token_or_a_version_that_does_not_allow_it(scene: Scene, ending: str) -> None:
    hook_at(scene)
    scene.gitlab.api.faults.forbidden_paths = {ending: 403 if ending == "/hooks" else 404}
    with pytest.raises(GitLabRefused):
        scene.read("hook_log", NOW - HOUR)


def test_a_body_that_was_too_large_or_is_none_is_left_to_the_other_sources(scene: Scene) -> None:
    hook = hook_at(scene)
    happens(scene, NOW - HOUR, "push", "issue", "note")
    hook.log[0][1]["request_data"] = {"oversize": True}
    hook.log[1][1]["request_data"] = None
    scene.now = NOW
    assert [s.summary.kind for s in scene.read("hook_log", NOW - 2 * HOUR)] == ["note"]


def test_without_idempotency_key_a_delivery_is_the_same_in_both(scene: Scene) -> None:
    """GitLab 17.3 has the log and not the key: event UUID and fingerprint stand in for it."""
    with Consumer() as up:
        hook = hook_at(scene, up.url.replace("/events", "/webhooks/gitlab"))
        hook.idempotency_key = False
        happens(scene, NOW - HOUR, "push")
        [posted] = up.accepted
    scene.now = NOW
    [told] = scene.read("hook_log", NOW - 2 * HOUR)
    uid = posted.headers["x-gitlab-event-uuid"]
    assert str(uuid.UUID(uid)) == uid
    assert told.source_id == f"{uid}:{fingerprint(json.loads(posted.body))[:32]}"


def test_a_key_that_the_log_blots_out_is_no_key(scene: Scene) -> None:
    """A custom header of that name: its value reads the same in every record."""
    hook = hook_at(scene)
    happens(scene, NOW - HOUR, "push", "issue", "note")
    for _, record in hook.log:
        record["request_headers"]["Idempotency-Key"] = REDACTED
    scene.now = NOW
    told = scene.read("hook_log", NOW - 2 * HOUR)
    assert len({one.source_id for one in told}) == 3
    assert not any(REDACTED in one.headers.values() for one in told)


def test_neighbours_in_an_unlikely_order_do_no_harm(scene: Scene) -> None:
    """An answer's clock that jumps: every delivery is told, at some time within the window."""
    hook = hook_at(scene)
    happens(scene, NOW - HOUR, "push", "push", "push")
    dates = ["Tue, 24 Nov 2026 11:30:00 GMT", "Tue, 24 Nov 2026 11:00:00 GMT", "nonsense"]
    for (_, record), date in zip(hook.log, dates, strict=True):
        record["response_headers"] = {"date": date}
    scene.now = NOW
    told = scene.read("hook_log", NOW - 2 * HOUR)
    assert len(told) == 3
    assert all(NOW - 2 * HOUR <= s.seen_at <= NOW + MINUTE for s in told)
    assert times.iso(min(s.seen_at for s in told))[:10] == "2026-11-24"


def test_gitlab_s_own_word_of_when_it_was_beats_every_estimate(scene: Scene) -> None:
    hook = hook_at(scene)
    hook.log_has_times = True
    happens(scene, NOW - 10 * HOUR, "push", "switch_flag")
    happens(scene, NOW - 3 * HOUR, "push")
    hook.log[0][1]["response_headers"] = {"Date": "Tue, 24 Nov 2026 01:00:00 GMT"}
    scene.now = NOW
    told = scene.read("hook_log", NOW - DAY)
    assert [s.seen_at for s in told] == [NOW - 10 * HOUR, NOW - 10 * HOUR, NOW - 3 * HOUR]
    precisions = {s.summary.kind: s.identity.precision for s in told}
    assert precisions == {"push": Precision.RECEIVED_TIME, "feature_flag": Precision.RECEIVED_REPEATABLE}


@pytest.mark.parametrize("log_has_times", [True, False])
def test_a_long_log_is_told_a_little_at_a_time_and_oldest_first(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, log_has_times: bool
) -> None:
    """Two webhooks' logs, longer than what is held in memory: destinations get the events in this order."""
    monkeypatch.setattr(spool, "IN_MEMORY_BYTES", 20_000)
    ours = [hook_at(scene, NOWHERE + path) for path in ("", "/b")]
    scene.hooks = Hooks(
        scene.client, Receiver.model_validate({"hooks": [{"token": "t"}, {"name": "b", "token": "t"}]})
    )
    source = HookLog(scene.hooks)
    for n in range(150, 0, -1):
        for hook in ours:
            hook.log_has_times, hook.failures = log_has_times, 0
        happens(scene, Millis(NOW - n * MINUTE), "issue")
    scene.now = NOW
    window = Interval(Millis(NOW - DAY), NOW)
    slices = list(source.read(scene.project, window))
    assert max(len(part.sightings) for part in slices) <= AT_A_TIME
    assert [part.covered for part in slices if part.covered] == [window]
    assert slices[-1].covered == window  # and not before all of it was told
    told = [s for part in slices for s in part.sightings]
    assert [s.identity.happened_at for s in told] == [NOW - n * MINUTE for n in range(150, 0, -1) for _ in "ab"]
    assert len(told) == len({(s.source, s.source_id) for s in told}) == 300


def test_deliveries_that_come_while_the_log_is_read_are_told_once(scene: Scene) -> None:
    hook = hook_at(scene)
    happens(scene, NOW - HOUR, *["push"] * 50)
    scene.now = NOW
    known, asked = len(hook.log), iter(range(100))

    def one_more(path: str, value: object) -> object:
        if path.endswith("/hooks/1/events") and next(asked) < 3:
            scene.world.push(42)
            scene.gitlab.courier.settle()
        return value

    scene.gitlab.api.faults.mangle = one_more
    told = scene.read("hook_log", NOW - 2 * HOUR)
    assert len(told) == len({s.source_id for s in told}) == known


def test_one_record_of_another_shape_is_named(scene: Scene) -> None:
    hook = hook_at(scene)
    happens(scene, NOW - HOUR, "push", "issue", "note")
    hook.log[1][1]["request_headers"] = ["X-Gitlab-Event"]
    scene.now = NOW
    slices = list(scene.sources["hook_log"].read(scene.project, Interval(Millis(NOW - DAY), NOW)))
    assert sorted(s.summary.kind for part in slices for s in part.sightings) == ["note", "push"]
    [named] = [bad for part in slices for bad in part.unreadable]
    assert (named.record_id, named.error) == (
        str(hook.log[1][1]["id"]),
        "expected `object | null`, got `array` - at `$.request_headers`",
    )
