"""Groups, and the projects below them: `GET /groups/:id`, `GET /groups/:id/projects`."""

from __future__ import annotations

from urllib.parse import quote

from reconciler.sources import answers
from reconciler.sources.client import Client
from reconciler.sources.source import Project


def find_group(client: Client, name: int | str) -> Project:
    """A group, as an owner of webhooks.

    Raises SourceError.
    """
    found = client.get(f"/groups/{quote(str(name), safe='')}", answers.GroupAnswer, {"with_projects": "false"})
    return Project(-found.shown.id, f"{found.shown.full_path} (group)", found.raw)


def projects_below(client: Client, group: int | str) -> list[Project]:
    """A group's projects, including those of subgroups, without archived projects and those that are only shared with
    it.

    Raises SourceError, also if a project can't be parsed: it must not seem to be removed.
    """
    query = {"include_subgroups": "true", "archived": "false", "with_shared": "false"}
    found = client.all(f"/groups/{quote(str(group), safe='')}/projects", answers.ProjectAnswer, query)
    return [
        Project(project.shown.id, project.shown.path_with_namespace, project.raw)
        for project in found
        if not (project.shown.archived or project.shown.is_going)
    ]
