"""What really happened: projects whose people push, open, close and comment. The truth that others report on."""

from __future__ import annotations

from collections.abc import Callable

from reconciler.simulator.ci import Ci
from reconciler.simulator.core import Happening, SimProject
from reconciler.simulator.repository import Repository
from reconciler.simulator.things import Thing
from reconciler.simulator.work import Work

__all__ = ["Happening", "SimProject", "Thing", "World"]


class World(Repository, Work, Ci):
    """Everything that can happen."""

    def anything(self, project_id: int) -> Happening:
        """Something that both a webhook and a record tell of, chosen at random."""
        choices: list[Callable[[], object]] = [
            lambda: self.push(project_id, self.random.choice(["main", "next", "fix"])),
            lambda: self.push(project_id),
            lambda: self.issue(project_id, f"Bug {self.new_id()}"),
            lambda: self.merge_request(project_id, f"Fix {self.new_id()}"),
            lambda: self.note(project_id, f"Comment {self.new_id()}"),
            lambda: self.wiki(project_id, f"page-{self.new_id()}"),
        ]
        with self._lock:
            self.random.choice(choices)()
            return self.happenings[-1]
