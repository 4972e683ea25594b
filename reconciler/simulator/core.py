"""The heart of the simulated world: projects, people, a clock, and the list of everything that happened."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from reconciler.simulator.payloads import Person, Place, millis
from reconciler.simulator.things import Thing


@dataclass
class Happening:
    """One thing that happened, and how GitLab tells of it: by webhook, by record, by both, or by neither."""

    number: int
    at: int
    project_id: int
    what: str
    hook_event: str | None
    webhook: dict[str, Any] | None
    record: dict[str, Any] | None
    record_visible_at: int = 0


@dataclass
class SimProject:
    """A project and what is in it. Lists hold what the API shows, in order of making."""

    place: Place
    heads: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, Any]] = field(default_factory=dict)
    parents: dict[str, str] = field(default_factory=dict)
    things: dict[str, dict[int, Thing]] = field(default_factory=dict)
    pages: dict[str, dict[str, Any]] = field(default_factory=dict)
    pipelines: dict[int, dict[str, Any]] = field(default_factory=dict)
    jobs: dict[int, dict[str, Any]] = field(default_factory=dict)
    deployments: dict[int, dict[str, Any]] = field(default_factory=dict)
    releases: dict[str, dict[str, Any]] = field(default_factory=dict)
    flags: dict[str, dict[str, Any]] = field(default_factory=dict)
    archived: bool = False
    last_activity_at: int = 0

    def shown(self) -> dict[str, Any]:
        return self.place.api() | {"archived": self.archived, "last_activity_at": millis(self.last_activity_at)}


HOUR_MS = 3_600_000


class Core:
    """Makes things happen. `clock` gives milliseconds; `tell` is called with each happening."""

    def __init__(
        self,
        *,
        seed: int = 0,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        record_lag: Callable[[], int] = lambda: 0,
    ) -> None:
        self.random = random.Random(seed)
        self.clock = clock
        self.record_lag = record_lag
        self.projects: dict[int, SimProject] = {}
        self.happenings: list[Happening] = []
        self.tell: Callable[[Happening], None] = lambda _: None
        self.people = [Person(1, "root"), Person(2, "ada"), Person(3, "grace"), Person(4, "linus")]
        self.members: set[int] | None = None
        """The projects of which the token's user is a member; None where of all."""
        self.groups: dict[int, str] = {}
        """Paths of groups by their ids."""
        self.note_awards: dict[int, list[dict[str, Any]]] = {}
        """The emoji on comments, by the comment's id."""
        self._lock = threading.RLock()
        self._next_id = 1000

    def add_project(self, project_id: int, path: str) -> SimProject:
        self.projects[project_id] = SimProject(Place(project_id, path))
        return self.projects[project_id]

    def add_group(self, group_id: int, path: str) -> None:
        self.groups[group_id] = path

    def is_in(self, project_id: int, place: int) -> bool:
        """Whether a project is that one, or below that group (an id below zero)."""
        group = self.groups.get(-place)
        return project_id == place or (
            group is not None and self.projects[project_id].place.path.startswith(f"{group}/")
        )

    def is_member(self, project_id: int) -> bool:
        """Whether the token's user is a member of a project."""
        return self.members is None or project_id in self.members

    def someone(self) -> Person:
        return self.random.choice(self.people)

    def sha(self) -> str:
        return f"{self.random.getrandbits(160):040x}"

    def new_id(self) -> int:
        with self._lock:
            self._next_id += 1
            return self._next_id

    def happen(
        self,
        project_id: int,
        what: str,
        who: Person,
        hook_event: str | None,
        webhook: dict[str, Any] | None,
        record: dict[str, Any] | None,
    ) -> Happening:
        with self._lock:
            now = self.clock()
            project = self.projects[project_id]
            if record is not None:
                record |= {
                    "id": self.new_id(),
                    "project_id": project_id,
                    "author_id": who.id,
                    "author_username": who.username,
                    "author": who.shown(),
                    "created_at": millis(now + self.record_lag()),
                }
                if now - project.last_activity_at >= HOUR_MS:  # GitLab moves it at most once an hour
                    project.last_activity_at = now
            happening = Happening(len(self.happenings), now, project_id, what, hook_event, webhook, record, now)
            self.happenings.append(happening)
        self.tell(happening)
        return happening
