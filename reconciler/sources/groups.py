"""Groups, and the projects below them: `GET /groups/:id`, `GET /groups/:id/projects`."""

from __future__ import annotations

from urllib.parse import quote

from reconciler.sources.client import Client
from reconciler.sources.source import Project


def find_group(client: Client, name: int | str) -> Project:
    """A group, as a place that has webhooks of its own.

    Raises SourceError.
    """
    found = client.get(f"/groups/{quote(str(name), safe='')}", {"with_projects": "false"})
    return Project(-int(found["id"]), f"{found['full_path']} (group)", found)


def projects_below(client: Client, group: int | str) -> list[Project]:
    """A group's projects, in subgroups too, without archived ones and those that are only shared with it.

    Raises SourceError.
    """
    query = {"include_subgroups": "true", "archived": "false", "with_shared": "false"}
    found = client.all(f"/groups/{quote(str(group), safe='')}/projects", query)
    gone = ("marked_for_deletion_at", "marked_for_deletion_on")
    return [
        Project(int(shown["id"]), str(shown["path_with_namespace"]), shown)
        for shown in found
        if not shown.get("archived") and not any(shown.get(field) for field in gone)
    ]
