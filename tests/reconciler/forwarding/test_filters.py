"""Which events a destination gets, and what is made of them."""

from __future__ import annotations

import contextlib
import itertools
import json
import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from reconciler.config.destinations import Destination, Transform
from reconciler.events.sighting import ALERT, HOOK_TEST, Summary
from reconciler.forwarding.filters import make_filter
from reconciler.forwarding.jail import TransformFailed
from reconciler.forwarding.transform import make_transform
from reconciler.ledger.queue.routes import Candidate, Undecided, delivery, lane
from reconciler.ledger.queue.routes import Route as LedgerRoute

MERGE = {
    "object_kind": "merge_request",
    "user": {"username": "ada"},
    "object_attributes": {"iid": 7, "title": "Speed", "source_branch": "fast", "target_branch": "main", "n": 0},
    "labels": [{"title": "urgent"}],
}


def candidate(body: dict[str, Any] | None = None, **more: Any) -> Candidate:
    about: dict[str, Any] = {
        "kind": "merge_request",
        "action": "merge",
        "project_id": 42,
        "project_path": "group/sub/project",
    }
    about |= {"ref": "fast", "author": "ada", "object": "merge_request/7"}
    payload = json.dumps(MERGE if body is None else body)
    return Candidate(Summary(**(about | more)), "webhook:default", lambda: payload)


def lets_through(filter_: dict[str, Any], one: Candidate | None = None, **more: Any) -> bool:
    destination = Destination.model_validate({"name": "d", "filter": filter_, **more})
    return make_filter(destination)(candidate() if one is None else one)


@pytest.mark.parametrize(
    ("wanted", "through"),
    [
        ({}, True),
        ({"projects": [42]}, True),
        ({"projects": [43]}, False),
        ({"projects": ["group/*"]}, True),
        ({"projects": ["group/project"]}, False),
        ({"projects": ["Group/*"]}, True),  # GitLab's paths ignore case
        ({"projects": ["group/SUB/Project"]}, True),
        ({"kinds": ["push", "merge_request"]}, True),
        ({"kinds": ["push"]}, False),
        ({"actions": ["merge"]}, True),
        ({"actions": ["open"]}, False),
        ({"branches": ["main"]}, True),  # the target
        ({"branches": ["fa*"]}, True),  # the source
        ({"branches": ["release/*"]}, False),
        ({"kinds": ["merge_request"], "branches": ["release/*"]}, False),
        ({"expression": "body.object_attributes.title == 'Speed'"}, True),
        ({"expression": "event.project_id == `42` && event.author != 'bot'"}, True),
        ({"expression": "body.labels[?title == 'urgent']"}, True),
        ({"expression": "body.labels[?title == 'x']"}, False),
        ({"expression": "body.nothing.here"}, False),
        ({"expression": "body.object_attributes.n"}, True),  # JMESPath: a number is true
    ],
)
def test_filters(wanted: dict[str, Any], through: bool) -> None:
    assert lets_through(wanted) is through


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ({"kinds": ["pushes"]}, "'push'"),
        ({"kinds": ["Push Hook"]}, "'push'"),
        ({"kinds": ["job"]}, "'build'"),
        ({"kinds": ["issues_events"]}, "'issue'"),
        ({"kinds": ["user_add_to_grup"]}, "'user_add_to_group'"),
        ({"kinds": ["hook_test"]}, "goes to no destination"),
        ({"kinds": ["reconciler_alert"]}, "`type: alerts`"),
        ({"actions": ["merged"]}, "'merge'"),
        ({"actions": ["opened"]}, "'open'"),
        ({"actions": ["sucess"]}, "'success'"),
        ({"kinds": ["push"], "actions": ["merge"]}, "never matches push: it has no action"),
        ({"kinds": ["push", "merge_request"], "actions": ["merge"]}, "never matches push"),
        (
            {"kinds": ["issue", "pipeline"], "actions": ["open", "merge", "success"]},
            "'merge' is not an action of issue or",
        ),
        ({"kinds": ["issue"], "actions": ["opened"]}, "'open'"),
        ({"kinds": ["issue"], "actions": ["success"]}, "close, open, reopen and update"),
        ({"kinds": ["user_add_to_group"], "actions": ["user_add_to_team"]}, "never matches user_add_to_group"),
        ({"kinds": ["issue"], "branches": ["main"]}, "never matches issue: such an event has no branch"),
        ({"kinds": ["tag_push"], "branches": ["main"]}, "never matches tag_push"),
        ({"projects": ["project"]}, "a project's id, its path"),
        ({"projects": ["group/"]}, "a project's id, its path"),
        ({"projects": [0]}, "a project's id, its path"),
        ({"projects": [True]}, "a project's id, its path"),
    ],
)
def test_what_can_never_let_anything_through_is_a_mistake(wanted: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Destination.model_validate({"name": "d", "filter": wanted})
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "wanted",
    [
        {"kinds": ["epic", "vulnerability_finding"]},  # a newer GitLab's, or a template's: like no word that we know
        {"kinds": ["epic"], "actions": ["merge", "promote"], "branches": ["main"]},
        {"kinds": ["pipeline"], "actions": ["success", "expired"]},
        {"kinds": ["member", "user_create"], "actions": ["user_create", "user_add_to_group"]},
        {"kinds": ["push", "merge_request", "pipeline", "build", "deployment"], "branches": ["main"]},
        {"projects": ["*", "group/*", "group?/x", "[ab]/*", "278964", 278964]},
    ],
)
def test_what_may_let_something_through_is_none(wanted: dict[str, Any]) -> None:
    Destination.model_validate({"name": "d", "filter": wanted})


@pytest.mark.parametrize(
    "wanted", [{"kinds": ["push"]}, {"actions": ["merge"]}, {"projects": ["group/*"]}, {"branches": ["main"]}]
)
def test_a_filter_of_alerts_is_of_what_alerts_have(wanted: dict[str, Any]) -> None:
    Destination.model_validate(
        {"name": "d", "type": "alerts", "filter": {"kinds": ["reconciler_alert"], "actions": ["opened"]}}
    )
    with pytest.raises(ValidationError):
        Destination.model_validate({"name": "d", "type": "alerts", "filter": wanted})


def test_an_id_may_be_given_as_text() -> None:
    assert lets_through({"projects": ["42"]})


def test_a_kind_that_looks_misspelt_is_filtered_by_its_body() -> None:
    """The way out that the refusal names."""
    one = candidate({"object_kind": "members"}, kind="members")
    assert lets_through({"expression": "body.object_kind == 'members'"}, one)


def test_branches_of_pushes_and_tags() -> None:
    push = {"kind": "push", "action": None}
    assert lets_through({"branches": ["main"]}, candidate({}, **push, ref="refs/heads/main"))
    assert not lets_through({"branches": ["*"]}, candidate({}, **push, ref="refs/tags/v1"))
    assert not lets_through({"branches": ["*"]}, candidate({}, kind="issue", ref=None))


def test_what_is_ours_goes_where_alerts_go_and_nowhere_else() -> None:
    for kind, events, alerts in (("push", True, False), (HOOK_TEST, False, False), (ALERT, False, True)):
        assert lets_through({}, candidate(kind=kind)) is events
        assert lets_through({}, candidate(kind=kind), type="alerts") is alerts


def test_the_body_is_not_read_where_no_filter_looks_into_it() -> None:
    def never() -> str:
        raise AssertionError

    one = Candidate(Summary(kind="push", project_id=1), "webhook:default", never)
    assert lets_through({"projects": [1], "kinds": ["push"]}, one)


def test_a_filter_that_can_t_tell_makes_a_dead_letter() -> None:
    destination = Destination.model_validate({"name": "d", "filter": {"expression": "contains(body.missing, 'x')"}})
    with pytest.raises(Undecided):
        make_filter(destination)(candidate())
    made = delivery(LedgerRoute(1, "project", make_filter(destination)), 9, candidate())
    assert made is not None
    assert made.error is not None
    assert made.error.startswith("the filter can't decide: ")


def test_an_expression_that_would_think_for_ever_makes_a_dead_letter() -> None:
    """Everything is recorded on one thread."""
    with pytest.raises(Undecided, match=r"takes more than 0\.1 s of CPU time"):
        lets_through({"expression": "body.labels" + "[].[@, @]" * 40})


def test_the_time_is_looked_at_with_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step may be a long one: over a list that those before made large."""
    clock = itertools.count()
    monkeypatch.setattr(time, "thread_time", lambda: next(clock) * 0.06)
    with pytest.raises(Undecided, match="CPU time"):
        lets_through({"expression": "body.labels"})


@pytest.mark.parametrize(
    "expression",
    ["body.labels[?title == 'x'].title | [0]", "to_string(body)", "sort_by(body.labels, &title)[0].title"],
)
def test_a_body_as_large_as_gitlab_s_takes_no_such_time(expression: str) -> None:
    assert lets_through(
        {"expression": expression}, candidate({"labels": [{"title": "y" * 100}] * 2000 + [{"title": "x"}]})
    )


@pytest.mark.parametrize("pattern", ["*a" * 40 + "b", "[a-z]*" * 40 + "0", "*?" * 40 + "b"])
def test_no_pattern_is_slow(pattern: str) -> None:
    """Patterns become regular expressions, and names are written by others."""
    assert not lets_through({"branches": [pattern]}, candidate(ref="a" * 255))


@given(st.text(max_size=40))
def test_any_text_is_an_expression_or_a_mistake(text: str) -> None:
    try:
        destination = Destination.model_validate({"name": "d", "filter": {"expression": text}})
    except ValidationError:
        return
    with contextlib.suppress(Undecided):
        make_filter(destination)(candidate())


def test_lanes() -> None:
    about = candidate().summary
    assert lane("project", 7, about) == "project:42"
    assert lane("object", 7, about) == "project:42/merge_request/7"
    assert lane("object", 7, Summary(kind="x", project_id=42)) == "project:42"
    assert lane("none", 7, about) == "event:000000000007"


SEEN: dict[str, Any] = {"body": MERGE, "event": {"author": "ada", "title": 'He said "no"', "kind": "merge_request"}}


def made(**transform: Any) -> Any:
    with contextlib.closing(make_transform(Transform(**transform))) as make:
        return json.loads(make(SEEN["event"], json.dumps(SEEN["body"])))


def test_fields_keep_their_places() -> None:
    assert made(fields=["object_kind", "object_attributes.iid", "object_attributes.title", "no.such"]) == {
        "object_kind": "merge_request",
        "object_attributes": {"iid": 7, "title": "Speed"},
    }
    assert made(fields=["user", "user.username"]) == {"user": {"username": "ada"}}


def test_jmespath_and_templates_make_something_else() -> None:
    assert made(jmespath="{title: body.object_attributes.title, who: event.author}") == {
        "title": "Speed",
        "who": "ada",
    }
    assert made(template='{"text": {{ (event.author ~ ": " ~ event.title) | tojson }}}') == {
        "text": 'ada: He said "no"'
    }


@pytest.mark.parametrize(
    "template",
    [
        "{{ body.user.nothing }}",
        "{{ nothing }}",
        "{{ body.labels + 1 }}",
        "{{ 1 / 0 }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ body.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os }}",
        "{{ body.update({'a': 1}) }}",
        "{% for i in range(10000000) %}x{% endfor %}",
        "{% include 'x' %}",
    ],
)
def test_a_template_that_fails_or_reaches_out_says_so(template: str) -> None:
    with pytest.raises(TransformFailed):
        made(template=template)


@pytest.mark.parametrize(
    "template",
    [
        "{{ 'a' * 10**9 }}",
        "{{ 'a' | center(1000000000) }}",
        "{% set x = 'a' * 10**9 %}",
        "{% if 'a' * 10**9 %}{% endif %}",
        "{% filter center(1000000000) %}a{% endfilter %}",
    ],
)
def test_nothing_is_worked_out_where_a_template_is_only_checked(template: str) -> None:
    tracemalloc.start()
    try:
        Transform(template=template)
        assert tracemalloc.get_traced_memory()[1] < 100_000_000
    finally:
        tracemalloc.stop()


def test_autoescape_is_not_worked_out() -> None:
    Transform(template="{% autoescape true %}{{ body }}{% endautoescape %}")
    with pytest.raises(ValidationError, match="takes true or false"):
        Transform(template="{% autoescape 'a' * 10**9 %}{% endautoescape %}")


def test_a_jmespath_that_fails_says_so() -> None:
    with pytest.raises(TransformFailed):
        made(jmespath="sum(body.labels)")


@pytest.mark.parametrize("wrong", [{}, {"fields": ["a"], "template": "x"}, {"template": "{{ x"}, {"jmespath": "a.."}])
def test_a_transform_is_one_thing_and_valid(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Transform(**wrong)
