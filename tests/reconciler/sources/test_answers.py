"""Whatever GitLab answers, what comes out is what it tells, and SourceError; never less of the rest."""

from __future__ import annotations

import copy
import json
import pkgutil
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reconciler import sources
from reconciler.config.models import GitLab, Receiver
from reconciler.events import times
from reconciler.events.intervals import Interval
from reconciler.events.times import DAY, HOUR, Millis
from reconciler.events.unreadable import Unreadable
from reconciler.simulator.server import Simulator
from reconciler.simulator.world import World
from reconciler.sources import answers, checked
from reconciler.sources.activity import Activity
from reconciler.sources.client import Client
from reconciler.sources.errors import SourceError, UnexpectedAnswer
from reconciler.sources.groups import find_group, projects_below
from reconciler.sources.hooks import Hooks
from reconciler.sources.source import Source
from reconciler.sources.table import make_sources
from tests.support.all_kinds import PROJECT, let_everything_happen
from tests.support.effort import tries

HOOK = "http://127.0.0.1:9/webhooks/gitlab"
DEEP: list[Any] = [json.loads("[" * depth + "]" * depth) for depth in (245, 250, 251, 252, 253, 254, 600)]
"""JSON that parsers read, and do not write or not once it stands in something else."""
OTHER_THINGS: list[Any] = [
    *DEEP,
    None, True, 0, -1, 1.5, 10**30, "", "x", "\ud800", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z",
    "9999-12-31T23:59:59-23:59", [], [[]],
    ["x"], {}, {"id": []}, {"x": {"x": {"x": []}}}, [{"id": None}], [None, {"commit": 7}],
]  # fmt: skip
UNFORESEEN = re.compile(r"\(\w+\.py:\d+\)$")
"""How an error ends that nobody foresaw."""
LISTS = {
    "hook_log": "hooks/1/events", "project_events": "events", "pipelines": "pipelines", "jobs": "pipelines",
    "deployments": "deployments", "releases": "releases", "feature_flags": "feature_flags", "issues": "issues",
    "merge_requests": "merge_requests",
}  # fmt: skip
"""Each source's own list."""


class Asked:
    """A GitLab in which much happened, and everything that asks it."""

    def __init__(self, gitlab: Simulator) -> None:
        self.gitlab = gitlab
        self.answers: dict[str, Any] = {}
        """What was answered, by path: of a list the first page."""
        self.failed: list[Unreadable] = []

    def fresh(self) -> tuple[Client, Hooks, dict[str, Source]]:
        client = Client(GitLab.model_validate({"url": self.gitlab.url, "token": self.gitlab.api.token}))
        hooks = Hooks(client, Receiver.model_validate({"hooks": [{"token": "t"}]}))
        return client, hooks, make_sources(client, hooks)

    def told(self, name: str, mangle: Callable[[str, Any], Any] | None = None) -> dict[str, str]:
        """What a source tells, completed: each sighting's id and body."""
        client, _, sources = self.fresh()
        self.failed, found = [], []
        now = times.now()
        self.gitlab.api.faults.mangle = mangle
        try:
            project = client.project(PROJECT)
            for part in sources[name].read(project, Interval(Millis(now - DAY), Millis(now + HOUR))):
                whole = sources[name].build(project, part.sightings, details=True)
                assert len(whole.sightings) == len(part.sightings)
                found += whole.sightings
                self.failed += [*part.unreadable, *whole.unreadable]
        finally:
            self.gitlab.api.faults.mangle = None
            client.stop()
        return {sighting.source_id: sighting.payload for sighting in found}

    def note(self, path: str, value: Any) -> Any:
        self.answers.setdefault(path, value)
        return value

    @staticmethod
    def list_of(name: str) -> str:
        return f"/api/v4/projects/{PROJECT}/{LISTS[name]}"

    def instead(self, path: str, other: Any) -> Callable[[str, Any], Any]:
        """Have a path answer something else."""
        return lambda asked, value: other if asked == path and value == self.answers[path] else value


@pytest.fixture(scope="module")
def asked() -> Iterator[Asked]:
    with Simulator(World(seed=3)) as gitlab:
        let_everything_happen(gitlab, HOOK)
        made = Asked(gitlab)
        for name in LISTS:
            made.told(name, made.note)
        yield made


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value, the whole of it first."""
    found = [path]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        found += places(item, (*path, key))
    return found


def replaced(value: Any, path: tuple[Any, ...], by: Any) -> Any:
    if not path:
        return by
    made = copy.copy(value)
    made[path[0]] = replaced(value[path[0]], path[1:], by)
    return made


def without(value: Any, path: tuple[Any, ...]) -> Any:
    made = copy.copy(value)
    if len(path) > 1:
        made[path[0]] = without(value[path[0]], path[1:])
    else:
        del made[path[0]]
    return made


def spoilt(value: Any, draw: st.DataObject, *, inside: tuple[Any, ...] = ()) -> Any:
    """A value with something else at one place (at `inside`, or below it), or without what was there."""
    below = value
    for step in inside:
        below = below[step]
    path = inside + draw.draw(st.sampled_from(places(below)), label="place")
    if len(path) > len(inside) and draw.draw(st.booleans(), label="left out"):
        return without(value, path)
    return replaced(value, path, draw.draw(st.sampled_from(OTHER_THINGS), label="other thing"))


THOROUGH = settings(
    deadline=None,
    max_examples=tries(20),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.mark.parametrize("name", LISTS)
@THOROUGH
@given(data=st.data())
def test_one_record_of_any_shape_costs_none_of_the_others(asked: Asked, name: str, data: st.DataObject) -> None:
    path = asked.list_of(name)
    records = asked.answers[path]
    index = data.draw(st.integers(0, len(records) - 1), label="record")
    told = asked.told(name, asked.instead(path, spoilt(records, data, inside=(index,))))
    assert [bad.error for bad in asked.failed if UNFORESEEN.search(bad.error)] == []
    assert asked.told(name, asked.instead(path, without(records, (index,)))).keys() <= told.keys()


@pytest.mark.parametrize("name", LISTS)
@THOROUGH
@given(data=st.data())
def test_any_other_answer_of_any_shape_is_a_source_error_at_most(
    asked: Asked, name: str, data: st.DataObject
) -> None:
    target = data.draw(st.sampled_from(sorted(asked.answers)), label="path")
    is_detail = target not in ("/api/v4/projects/42", "/api/v4/projects/42/hooks", *map(asked.list_of, LISTS))
    try:
        told = asked.told(name, asked.instead(target, spoilt(asked.answers[target], data)))
    except SourceError:
        assert not is_detail  # a detail can't stop what it was to decorate
        return
    assert [bad.error for bad in asked.failed if UNFORESEEN.search(bad.error)] == []
    if is_detail and name in ("project_events", "pipelines"):
        assert told.keys() == asked.told(name).keys()


@THOROUGH
@given(data=st.data())
def test_look_ups_raise_source_errors_only(asked: Asked, data: st.DataObject) -> None:
    client, hooks, _ = asked.fresh()
    looks: dict[str, Callable[[], Any]] = {
        "/projects/42": lambda: client.project(PROJECT),
        "/groups/group": lambda: find_group(client, "group"),
        "/groups/group/projects": lambda: projects_below(client, "group"),
        "/projects/42/hooks": lambda: hooks.of(PROJECT),
        "/events": lambda: Activity(client).since(Millis(times.now() - DAY)),
        "/projects": lambda: Activity(client).since(Millis(times.now() - DAY)),
        "/version": lambda: client.get("/version", answers.Version),
        "/personal_access_tokens/self": lambda: client.get("/personal_access_tokens/self", answers.Token),
    }
    path = data.draw(st.sampled_from(sorted(looks)), label="look")
    asked.gitlab.api.faults.mangle = asked.note
    looks[path]()
    place = f"/api/v4{path}"
    asked.gitlab.api.faults.mangle = asked.instead(place, spoilt(asked.answers[place], data))
    hooks.forget(PROJECT)
    try:
        looks[path]()
    except SourceError as error:
        assert len(str(error)) < 1000
    finally:
        asked.gitlab.api.faults.mangle = None
        client.stop()


@pytest.mark.parametrize(
    "answer",
    [b"", b"<html>login</html>", b"[", b'{"a":', b"\xff\xfe", b"[" * 100_000, b"NaN", b'"text"', b"7", b"{}"],
)
def test_an_answer_that_is_no_list_says_what_it_is(asked: Asked, answer: bytes) -> None:
    asked.gitlab.api.faults.mangle = lambda path, value: answer if path.endswith("/events") else value
    client, _, _ = asked.fresh()
    try:
        with pytest.raises(UnexpectedAnswer, match=r"^GET [^?]*/events: unexpected answer: ") as raised:
            list(client.pages("/projects/42/events", answers.Event, {}))
    finally:
        asked.gitlab.api.faults.mangle = None
    assert len(str(raised.value)) < 500


def test_half_a_surrogate_pair_in_one_title_costs_nothing(asked: Asked) -> None:
    """No fast parser reads it, and no database holds it: the page that it stands on is read all the same."""
    by_hand = rb'[{"id": 7, "created_at": "2026-11-24T12:00:00Z", "target_title": "half \ud83d"}, {"id": 6}]'
    page = checked.read_page("GET /events", checked.parse(by_hand), answers.Event)
    assert [record.raw["target_title"] for record in page.records] == ["half ?"]
    assert [(bad.record_id, bad.error) for bad in page.unreadable] == [
        ("6", "object missing required field `created_at`")
    ]


@pytest.mark.parametrize("headers", [{"X-Next-Page": "2"}, {"X-Next-Page": "x"}, {"Link": '<x>; rel="next"'}])
def test_pages_without_end_are_an_error_that_says_so(asked: Asked, headers: dict[str, str]) -> None:
    """A cache before GitLab that does not look at the query gives the first page again and again."""
    path = asked.list_of("project_events")
    asked.gitlab.api.faults.added_headers = headers
    asked.gitlab.api.faults.mangle = lambda at, value: asked.answers[path] if at == path else value
    client, _, _ = asked.fresh()
    try:
        with pytest.raises(UnexpectedAnswer, match="its pages never end"):
            list(client.pages(f"/projects/{PROJECT}/events", answers.Event, {}))
    finally:
        asked.gitlab.api.faults.added_headers, asked.gitlab.api.faults.mangle = {}, None
    assert client.requests <= 5


def test_a_page_that_new_records_shifted_whole_is_no_page_without_end(asked: Asked) -> None:
    """As many records came between two requests as a page holds: the next page is the same once."""
    path, records = f"/api/v4/projects/{PROJECT}/events", asked.answers[asked.list_of("project_events")]
    pages = iter([records[:2], records[:2], records[2:4], records[4:]])
    asked.gitlab.api.faults.added_headers = {"Link": '<x>; rel="next"'}
    asked.gitlab.api.faults.mangle = lambda at, value: next(pages) if at == path else value
    client, _, _ = asked.fresh()
    read: list[int] = []
    try:
        for page in client.pages(f"/projects/{PROJECT}/events", answers.Event, {}):
            read += [record.shown.id for record in page.records]
            if len(read) == len(records):
                break
    finally:
        asked.gitlab.api.faults.added_headers, asked.gitlab.api.faults.mangle = {}, None
    assert read == [record["id"] for record in records]


def test_threads_may_use_a_type_for_the_first_time_together() -> None:
    """Polls of several projects begin at once, and each reads its first answer in a thread of its own."""
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-m", "tests.support.first_use"],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_all_types_of_answers_are_prepared() -> None:
    """They are if they are in `answers`, and derived from `Shape` itself."""
    for module in pkgutil.iter_modules(sources.__path__):
        import_module(f"{sources.__name__}.{module.name}")
    shapes = answers.Shape.__subclasses__()
    assert {shape.__module__ for shape in shapes} == {answers.__name__}
    assert [shape for shape in shapes if shape.__subclasses__()] == []
