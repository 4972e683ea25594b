"""True histories of a project, and what GitLab's two ways of telling make of them."""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

from hypothesis import strategies as st

from reconciler.events import times
from reconciler.events.api_record_sighting import record_sighting
from reconciler.events.sighting import Sighting
from reconciler.events.webhook_sighting import webhook_sighting
from reconciler.simulator.world import Happening, Thing, World

PROJECT = 42
START = times.from_iso("2026-10-05T08:00:00Z")
SECOND, MINUTE, HOUR = times.SECOND, times.MINUTE, times.HOUR
REPEATABLE = 3 * MINUTE
"""How far apart two tellings without a time of their own must be for anyone to tell them apart."""


@dataclass
class History:
    """Makes a world live through a list of (action, choice, pause) steps."""

    world: World
    now: int = START
    issues: list[tuple[Thing, str]] = field(default_factory=list)
    requests: list[tuple[Thing, str]] = field(default_factory=list)
    notes: list[Thing] = field(default_factory=list)
    milestones: list[tuple[Thing, str]] = field(default_factory=list)
    pages: list[str] = field(default_factory=list)

    def step(self, action: str, choice: int, pause: int) -> None:
        self.now += pause
        getattr(self, "_" + action)(choice)

    def _ping_pong(self, choice: int) -> None:
        """A to B, B to A, A to B: force pushes back and forth between two commits."""
        world = self.world
        branch = f"flip-{choice % 2}"
        ends = ("a" * 40, "b" * 40)
        head = world.projects[PROJECT].heads.get(f"refs/heads/{branch}")
        self.now += REPEATABLE
        world.push(PROJECT, branch, ends[head == ends[0]])

    def _push(self, choice: int) -> None:
        self.world.push(PROJECT, ("main", "next", "fix")[choice % 3])

    def _tag(self, choice: int) -> None:
        self.world.tag(PROJECT, f"v{len(self.world.happenings)}")

    def _delete_ref(self, choice: int) -> None:
        heads = sorted(self.world.projects[PROJECT].heads)
        if heads:
            self.world.delete_ref(PROJECT, heads[choice % len(heads)])

    def _bulk_push(self, choice: int) -> None:
        self.world.bulk_push(PROJECT, 4 + choice % 3)

    def _issue(self, choice: int) -> None:
        self.issues.append((self.world.issue(PROJECT, kind=("issue", "work_item")[choice % 2]), "open"))

    def _toggle_issue(self, choice: int) -> None:
        if self.issues:
            at = choice % len(self.issues)
            thing, state = self.issues[at]
            action, after = ("close", "closed") if state == "open" else ("reopen", "open")
            self.world.issue_does(PROJECT, thing, action, confidential=choice % 3 == 0)
            self.issues[at] = (thing, after)

    def _edit_issue(self, choice: int) -> None:
        if self.issues:
            self.world.issue_does(PROJECT, self.issues[choice % len(self.issues)][0], "update")

    def _merge_request(self, choice: int) -> None:
        self.requests.append((self.world.merge_request(PROJECT), "open"))

    def _toggle_request(self, choice: int) -> None:
        if self.requests:
            at = choice % len(self.requests)
            thing, state = self.requests[at]
            if state != "merged":
                merge = choice % 4 == 0 and state == "open"
                action = "merge" if merge else "close" if state == "open" else "reopen"
                self.world.merge_request_does(PROJECT, thing, action)
                after = {"merge": "merged", "close": "closed", "reopen": "open"}[action]
                self.requests[at] = (thing, after)

    def _approve(self, choice: int) -> None:
        """Several people, and the same ones again after taking it back."""
        if self.requests:
            thing = self.requests[choice % len(self.requests)][0]
            who = self.world.people[choice % len(self.world.people)]
            for action in ("approval" if choice % 2 else "approved", "unapproved"):
                self.now += REPEATABLE
                self.world.merge_request_does(PROJECT, thing, action, who)

    def _note(self, choice: int) -> None:
        self.notes.append(self.world.note(PROJECT, with_action=choice % 2 == 0))

    def _edit_note(self, choice: int) -> None:
        if self.notes:
            self.world.edit_note(PROJECT, self.notes[choice % len(self.notes)])

    def _milestone(self, choice: int) -> None:
        self.milestones.append((self.world.milestone(PROJECT), "open"))

    def _toggle_milestone(self, choice: int) -> None:
        if self.milestones:
            at = choice % len(self.milestones)
            thing, state = self.milestones[at]
            action, after = ("close", "closed") if state == "open" else ("reopen", "open")
            self.world.milestone_does(PROJECT, thing, action)
            self.milestones[at] = (thing, after)

    def _wiki(self, choice: int) -> None:
        slug = f"page-{choice % 2}"
        self.now += REPEATABLE
        if slug not in self.pages:
            self.world.wiki(PROJECT, slug, "create")
            self.pages.append(slug)
        elif choice % 3:
            self.world.wiki(PROJECT, slug, "update")
        else:
            self.world.wiki(PROJECT, slug, "delete")
            self.pages.remove(slug)

    def _pipeline(self, choice: int) -> None:
        self.world.pipeline(PROJECT, ("success", "failed")[choice % 2])


ACTIONS = sorted(name[1:] for name in vars(History) if name.startswith("_") and not name.startswith("__"))


class Told:
    """What the sources told of a history: sightings, and which happening each truly is of."""

    def __init__(self) -> None:
        self.sightings: list[Sighting] = []
        self.truth: dict[tuple[str, str], int] = {}

    def __repr__(self) -> str:
        lines = [
            f"{self.truth[s.source, s.source_id]}: {s.source} {s.source_id[:8]} {s.identity.key[:60]} "
            f"+{(s.identity.happened_at - START) / 1000}s {s.identity.precision} {s.payload_sha[:6]}"
            for s in self.sightings
        ]
        return "\n".join(lines)


@st.composite
def histories(draw: st.DrawFn) -> Told:
    """A history and its tellings: lost, doubled, late, by two hooks, in three time formats."""
    seed = draw(st.integers(0, 2**32))
    world = World(seed=seed)
    world.add_project(PROJECT, "group/project")
    if seed % 2:
        world.people = world.people[:1]  # so that pushes back and forth have the same bytes
    history = History(world)
    world.clock = lambda: history.now
    steps = draw(
        st.lists(
            st.tuples(
                st.sampled_from(ACTIONS),
                st.integers(0, 11),
                st.sampled_from([3 * SECOND, 7_300, MINUTE, 20 * MINUTE, 5 * HOUR]),
            ),
            min_size=1,
            max_size=30,
        )
    )
    for action, choice, pause in steps:
        history.step(action, choice, pause)
    dice = random.Random(seed)
    return tell(world.happenings, dice)


def tell(happenings: list[Happening], dice: random.Random) -> Told:
    """Derive what two hooks and the Events API tell, as GitLab would."""
    by_key: dict[str, list[Happening]] = {}
    for happening in happenings:
        by_key.setdefault(_sameness(happening), []).append(happening)
    told = Told()
    for happening in happenings:
        alike = by_key[_sameness(happening)]
        distance = min((abs(h.at - happening.at) for h in alike if h is not happening), default=0)
        _by_hooks(told, happening, distance, dice)
        if happening.record is not None and (len(alike) > 1 or dice.random() < 0.8):
            _by_api(told, happening, distance, dice)
    return told


def _sameness(happening: Happening) -> str:
    """What one could take for the same thing happening again."""
    body = happening.webhook
    if body is None or ("object_attributes" not in body and "ref" not in body) or body.get("object_kind") == "build":
        return f"alone:{happening.number}"
    kind = body["object_kind"].removeprefix("tag_").replace("work_item", "issue")
    if kind == "push":
        return json.dumps([body["ref"], body["before"], body["after"]])
    attributes = body["object_attributes"]
    action = attributes.get("action") or body.get("action")
    did = {"reopen": "open", "create": "open", "approval": "approved"}.get(str(action), action)
    user = body["user"]["id"] if did == "approved" else 0
    return json.dumps([kind, attributes.get("id") or attributes["slug"], did, user])


def _by_hooks(told: Told, happening: Happening, distance: int, dice: random.Random) -> None:
    body = happening.webhook
    if body is None:
        return
    payload = json.dumps(body)
    kind = body["object_kind"]
    has_time = kind not in ("push", "tag_push", "wiki_page") and "approv" not in happening.what
    for source in ("webhook:default", "webhook:group"):
        if dice.random() < 0.35:  # lost
            continue
        longest = 8 * HOUR if not distance or has_time else distance * 2 // 5 - 10 * SECOND
        if not has_time and happening.record is None:
            longest = 15 * SECOND  # nothing but nearness could ever show that two hooks mean the same
        delay = dice.choice([0, 2 * SECOND, dice.randrange(max(1, min(longest, 8 * HOUR)))])
        delay = max(0, min(delay, longest))
        copies = 1 + (dice.random() < 0.25)  # sent twice, or two hooks on one path
        for _ in range(copies):
            sighting = webhook_sighting(
                json.loads(payload),
                payload=payload,
                source=source,
                source_id=str(uuid.UUID(int=dice.getrandbits(128))) if dice.random() < 0.8 else None,
                event_uuid=str(uuid.UUID(int=dice.getrandbits(128))),
                seen_at=times.Millis(happening.at + delay),
                headers={},
                project_ids={},
            )
            _add(told, sighting, happening)
            delay += dice.randrange(1, 20 * SECOND)


def _by_api(told: Told, happening: Happening, distance: int, dice: random.Random) -> None:
    assert happening.record is not None
    lag = dice.choice([0, 300, 900])
    if not distance:  # nothing to take it for: minutes, under load
        lag = dice.choice([lag, 5 * MINUTE])
    record = {**happening.record, "created_at": times.iso(times.Millis(happening.at + lag))}
    sighting = record_sighting(
        record,
        payload=json.dumps(record),
        project_id=PROJECT,
        project_path="group/project",
        seen_at=times.Millis(happening.at + lag + HOUR),
    )
    _add(told, sighting, happening)


def _add(told: Told, sighting: Sighting, happening: Happening) -> None:
    told.sightings.append(sighting)
    told.truth[sighting.source, sighting.source_id] = happening.number


def shuffled(sightings: list[Sighting], seed: int, repeat: bool = True) -> list[list[Sighting]]:
    """Any interleaving, in batches of any size, some of it told again later."""
    dice = random.Random(seed)
    order = list(sightings)
    if repeat:
        order += [s for s in sightings if dice.random() < 0.2]
    dice.shuffle(order)
    batches = []
    while order:
        size = dice.choice([1, 1, 2, 5, 50])
        batches.append(order[:size])
        order = order[size:]
    return batches


def as_they_come(sightings: list[Sighting], poll: int) -> list[list[Sighting]]:
    """Webhooks one by one as they are received; each poll's records together."""
    moments: dict[tuple[int, str], list[Sighting]] = {}
    for number, sighting in enumerate(sightings):
        if sighting.source == "project_events":
            at = (sighting.identity.happened_at // poll + 1) * poll
            moments.setdefault((at, "poll"), []).append(sighting)
        else:
            moments[sighting.seen_at, f"{number:04d}"] = [sighting]
    return [moments[when] for when in sorted(moments)]


Partition = set[frozenset[tuple[str, str]]]


def partition(names: Callable[[], list[tuple[object, tuple[str, str]]]]) -> Partition:
    """Groups of (source, source_id) by whatever stands first."""
    groups: dict[object, set[tuple[str, str]]] = {}
    for group, name in names():
        groups.setdefault(group, set()).add(name)
    return {frozenset(group) for group in groups.values()}
