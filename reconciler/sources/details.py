"""Asking for what bodies lack, each thing once: a project's issues, merge requests, commits, jobs."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from reconciler.reconstruct.pushes import MOST_COMMITS
from reconciler.sources.client import Client
from reconciler.sources.errors import Refused
from reconciler.sources.source import Project

ZEROS = "0" * 40


class Details:
    """One project's details, remembered for as long as this object lives: make one for each slice.

    What GitLab refuses to show (deleted meanwhile, or not for this token's eyes) is None.
    """

    def __init__(self, client: Client, project: Project) -> None:
        self._client = client
        self._project = project
        self._known: dict[str, Any] = {}

    def get(self, path: str, **query: Any) -> Any:
        """`GET /projects/:id<path>`."""
        name = f"{path}?{query}"
        if name not in self._known:
            try:
                self._known[name] = self._client.get(f"/projects/{self._project.id}{path}", query)
            except Refused:
                self._known[name] = None
        return self._known[name]

    def all(self, path: str) -> list[Any]:
        """Every record of a list that belongs to one thing: empty where GitLab refuses to show it."""
        if path not in self._known:
            try:
                self._known[path] = self._client.all(f"/projects/{self._project.id}{path}")
            except Refused:
                self._known[path] = []
        found: list[Any] = self._known[path]
        return found

    def issue(self, iid: Any) -> Any:
        return self.get(f"/issues/{iid}")

    def merge_request(self, iid: Any) -> Any:
        return self.get(f"/merge_requests/{iid}")

    def commit(self, sha: Any) -> Any:
        return self.get(f"/repository/commits/{sha}") if sha else None

    def commits(self, before: str | None, after: str | None, *, is_tag: bool) -> Any:
        """A push's commits, oldest first, as GitLab chooses them: what came since `before`, or for a new branch
        what the default branch has not; for a tag its own (`Gitlab::DataBuilder::Push`, `Git::BranchHooksService`).
        """
        if after is None:
            return []
        if is_tag:
            tagged = self.commit(after)
            return None if tagged is None else [tagged]
        base = before or self._project.details.get("default_branch")
        if base is None:
            return None
        compared = self.get("/repository/compare", **{"from": base, "to": after})
        commits = None if compared is None else compared.get("commits")
        if before is None and commits == []:  # the default branch itself is new
            newest = self.get("/repository/commits", ref_name=after, per_page=MOST_COMMITS)
            return None if newest is None else newest[::-1]
        return commits

    def noteable(self, note: dict[str, Any]) -> Any:
        """What a note stands on."""
        match note.get("noteable_type"):
            case "Issue" | "WorkItem":
                return self.issue(note.get("noteable_iid"))
            case "MergeRequest":
                return self.merge_request(note.get("noteable_iid"))
            case "Commit":
                return self.commit(note.get("commit_id"))
            case "Snippet":
                return self.get(f"/snippets/{note.get('noteable_id')}")
            case _:
                return None

    def page(self, slug: str) -> Any:
        return self.get(f"/wikis/{quote(slug, safe='')}")
