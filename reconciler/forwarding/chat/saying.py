"""What an event says to people in a chat, as plain text: who did what where, a title or a comment, and a link."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import msgspec

from reconciler.events.fields import dig, first_line, first_text, word
from reconciler.events.sighting import ALERT
from reconciler.forwarding.chat.sentences import DONE, FAMILIES, STATUS, shown

TEST = "reconciler_test"
_SHA = 8
"""How much of a commit's hash is shown."""


class Said(msgspec.Struct, frozen=True):
    """Plain text, not escaped for any chat. `text` and `url` are empty if there are none."""

    headline: str
    text: str = ""
    url: str = ""


class _Event:
    """An event's facts and its body, read by path."""

    def __init__(self, facts: dict[str, Any], body: Any) -> None:
        self.facts = facts
        self.body = body
        self.kind: str = facts["kind"]
        self.action: str = facts["action"] or ""
        self.branch: str = facts["branch"] or ""
        self.project_url = self.one("project.web_url", "project.homepage")

    def one(self, *paths: str) -> str:
        """The first text, number or boolean of these paths; empty if there is none."""
        return next((found for path in paths if (found := word(dig(self.body, path)))), "")

    @property
    def who(self) -> str:
        """The author, by their full name if the body has it."""
        paths = ("user.name", "user_name") if self.kind in _BY_A_PUSHER else ("user.name",)
        return first_text(self.body, *paths) or self.facts["author"] or ""

    def below_project(self, path: str, ident: str) -> str:
        """A page of the project; empty if it can't be known."""
        return f"{self.project_url}/-/{path}/{quote(ident)}" if self.project_url and ident else ""


_BY_A_PUSHER = ("push", "tag_push", "repository_update")


def said(facts: dict[str, Any], body: Any) -> Said:
    """What an event says. `facts` are those that templates get as `event`."""
    event = _Event(facts, body)
    made = _SAYINGS.get(event.kind, _any)(event)
    where = facts["project"] or event.one(
        "project.path_with_namespace", "group.full_path", "project.name", "group_path"
    )
    headline = f"{where}: {made.headline}" if where else made.headline
    url = made.url or event.one("object_attributes.url", "url") or event.project_url
    return Said(headline, made.text, url)


def _sentence(who: str, done: str, what: str) -> str:
    """`Ada merged merge request !7`; without an author, `merge request !7: merged`."""
    return f"{who} {done} {what}" if who else f"{what}: {done}"


def _done(action: str) -> str:
    return DONE.get(action, shown(action) or "changed")


def _push(event: _Event) -> Said:
    return _pushed(event, "branch", event.branch)


def _tag_push(event: _Event) -> Said:
    return _pushed(event, "tag", event.one("ref").removeprefix("refs/tags/"))


def _pushed(event: _Event, what: str, name: str) -> Said:
    before, after = event.one("before"), event.one("after")
    if after and not after.strip("0"):
        return Said(_sentence(event.who, "deleted", f"{what} {name}"))
    commits = dig(event.body, "commits")
    last = commits[-1] if isinstance(commits, list) and commits else None
    text = first_text(last, "title") or first_line(first_text(last, "message")) or ""
    count = event.one("total_commits_count") or str(len(commits) if isinstance(commits, list) else 0)
    if before and not before.strip("0"):
        page = event.below_project("tags" if what == "tag" else "commits", name)
        return Said(_sentence(event.who, "created", f"{what} {name}"), text, page)
    if count == "1" or not before:
        page = event.below_project("commit", after)
    else:
        page = event.below_project("compare", f"{before}...{after}")
    many = {"0": "to", "1": "1 commit to"}.get(count, f"{count} commits to")
    return Said(_sentence(event.who, "pushed", f"{many} {what} {name}"), text, page)


def _work_item(event: _Event) -> Said:
    sort = shown(event.one("object_attributes.type") or "issue").lower()
    number = event.one("object_attributes.iid")
    page = event.one("object_attributes.url") or event.below_project("issues", number)
    what = f"{sort} #{number}"
    return Said(_sentence(event.who, _done(event.action), what), event.one("object_attributes.title"), page)


def _merge_request(event: _Event) -> Said:
    number = event.one("object_attributes.iid")
    source, target = event.one("object_attributes.source_branch"), event.one("object_attributes.target_branch")
    what = f"merge request !{number}" + (f" ({source} → {target})" if source and target else "")
    page = event.one("object_attributes.url") or event.below_project("merge_requests", number)
    return Said(_sentence(event.who, _done(event.action), what), event.one("object_attributes.title"), page)


def _note(event: _Event) -> Said:
    done = "edited a comment on" if event.action == "update" else "commented on"
    return Said(_sentence(event.who, done, _object(event)), event.one("object_attributes.note"))


def _emoji(event: _Event) -> Said:
    done = "removed {} from" if event.action == "revoke" else "added {} to"
    done = done.format(f"the reaction {event.one('object_attributes.name')}")
    return Said(_sentence(event.who, done, _object(event)), "", event.one("object_attributes.awarded_on_url"))


def _object(event: _Event) -> str:
    """What a comment or a reaction is on, as GitLab writes it."""
    name, _, ident = (event.facts["object"] or "").partition("/")
    sign = {"issue": "#", "merge_request": "!", "snippet": "$"}.get(name, "")
    if name == "commit":
        ident = ident[:_SHA]
    return f"{shown(name)} {sign}{ident}" if ident else "something"


def _pipeline(event: _Event) -> Said:
    number = event.one("object_attributes.id")
    text = event.one("object_attributes.name", "commit.title") or first_line(event.one("commit.message")) or ""
    page = event.one("object_attributes.url") or event.below_project("pipelines", number)
    ref = event.one("object_attributes.ref")
    return Said(_ran(event, f"pipeline #{number}", event.one("object_attributes.status"), ref), text, page)


def _build(event: _Event) -> Said:
    job, number = event.one("build_name"), event.one("pipeline_id")
    what = f"job {job}" + (f" of pipeline #{number}" if number else "")
    page = event.below_project("jobs", event.one("build_id"))
    text = first_line(event.one("commit.title", "commit.message")) or ""
    return Said(_ran(event, what, event.one("build_status"), event.one("ref")), text, page)


def _deployment(event: _Event) -> Said:
    what = f"deployment to {event.one('environment') or 'an environment'}"
    made = _ran(event, what, event.one("status"), event.one("ref"))
    return Said(made, event.one("commit_title"), event.one("deployable_url"))


def _ran(event: _Event, what: str, status: str, ref: str) -> str:
    """`pipeline #31 failed on main (Ada)`."""
    status = status or event.action
    happened = STATUS.get(status, f"is {shown(status)}" if status else "changed")
    return f"{what} {happened}" + (f" on {ref}" if ref else "") + (f" ({event.who})" if event.who else "")


def _feature_flag(event: _Event) -> Said:
    done = {"true": "switched on", "false": "switched off"}.get(event.action, "changed")
    what = f"feature flag {event.one('object_attributes.name')}"
    return Said(
        _sentence(event.who, done, what), "", f"{event.project_url}/-/feature_flags" * bool(event.project_url)
    )


def _release(event: _Event) -> Said:
    tag, name = event.one("tag"), event.one("name")
    return Said(f"release {tag} was {_done(event.action)}", "" if name == tag else name, event.one("url"))


def _milestone(event: _Event) -> Said:
    page = event.below_project("milestones", event.one("object_attributes.iid"))
    return Said(f"milestone {event.one('object_attributes.title')} was {_done(event.action)}", "", page)


def _token(event: _Event) -> Said:
    at = event.one("object_attributes.expires_at")
    return Said(f"{shown(event.kind)} {event.one('object_attributes.name')} expires" + (f" at {at}" if at else ""))


def _alert(event: _Event) -> Said:
    state = "over" if event.action == "over" else "alert"
    subject = event.one("subject")
    about = shown(event.one("alert")) + (f" ({subject})" if subject else "")
    return Said(f"gitlab-reconciler: {state}: {about}", event.one("text"))


def _test(event: _Event) -> Said:
    return Said("gitlab-reconciler: test", event.one("text"))


def _any(event: _Event) -> Said:
    """A kind without a sentence of its own, or one that this version does not know."""
    sentence = FAMILIES.get(event.action)
    if sentence is not None:
        names = {"user": event.one("user_name", "name", "user_username", "username") or "a user"}
        names["access"] = shown(event.one("access_level", "group_access") or "a member")
        names["old"] = event.one("old_path_with_namespace", "old_full_path", "old_username") or "another name"
        names["path"] = event.one("path_with_namespace", "full_path", "username") or "it"
        return Said(sentence.format_map(names))
    title = event.facts["title"] or ""
    happened = f": {shown(event.action)}" if event.action else ""
    return Said(f"{shown(event.kind)}{happened}" + (f" ({event.who})" if event.who else ""), title)


_SAYINGS: dict[str, Callable[[_Event], Said]] = {
    "push": _push,
    "tag_push": _tag_push,
    "issue": _work_item,
    "work_item": _work_item,
    "merge_request": _merge_request,
    "note": _note,
    "emoji": _emoji,
    "pipeline": _pipeline,
    "build": _build,
    "deployment": _deployment,
    "feature_flag": _feature_flag,
    "release": _release,
    "milestone": _milestone,
    "wiki_page": lambda event: Said(
        _sentence(event.who, _done(event.action), "a wiki page"), event.one("object_attributes.title")
    ),
    "access_token": _token,
    "deploy_token": _token,
    ALERT: _alert,
    TEST: _test,
}
