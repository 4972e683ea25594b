"""Gets the details that bodies lack, each one once: a project's issues, merge requests, commits, jobs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import quote

import structlog

from reconciler.reconstruct.pushes import MOST_COMMITS
from reconciler.sources import answers
from reconciler.sources.answers import Json
from reconciler.sources.checked import Read, ShapeT
from reconciler.sources.client import Client
from reconciler.sources.errors import GitLabRefused, Unavailable
from reconciler.sources.source import Project

UNAUTHORISED = 401
TRIES = 2
"""A detail gets fewer retries than the record that it completes."""

T = TypeVar("T")

log = structlog.get_logger(__name__)


class Details:
    """One project's details, cached for as long as this object lives: make one for each slice.

    A missing detail does not stop the record that it completes. It is None if GitLab refuses to show it (deleted
    meanwhile, or hidden from the token), if the answer is unexpected, or if only this request fails. SourceError is
    raised only if GitLab does not answer at all or rejects the token.
    """

    def __init__(self, client: Client, project: Project) -> None:
        self._client = client
        self._project = project
        self._known: dict[str, Any] = {}

    def get(self, path: str, shape: type[ShapeT], **query: Any) -> Json | None:
        """`GET /projects/:id<path>`, as JSON."""
        found = self._once(f"{path}?{query}", lambda: self._client.get(self._place(path), shape, query, tries=TRIES))
        return None if found is None else found.raw

    def all(self, path: str, shape: type[ShapeT], **query: Any) -> list[Read[ShapeT]] | None:
        """Every record of a list that belongs to one object."""
        return self._once(f"{path}?{query}", lambda: self._client.all(self._place(path), shape, query, tries=TRIES))

    def issue(self, iid: Any) -> Json | None:
        return self.get(f"/issues/{iid}", answers.Work) if iid is not None else None

    def merge_request(self, iid: Any) -> Json | None:
        return self.get(f"/merge_requests/{iid}", answers.Work) if iid is not None else None

    def commit(self, sha: Any) -> Json | None:
        return self.get(f"/repository/commits/{quote(str(sha), safe='')}", answers.Commit) if sha else None

    def commits(self, before: str | None, after: str | None, *, is_tag: bool) -> list[Json] | None:
        """A push's commits, oldest first, chosen as GitLab does: those since `before`; for a new branch those that
        the default branch lacks; for a tag its own (`Gitlab::DataBuilder::Push`, `Git::BranchHooksService`).
        """
        if after is None:
            return []
        if is_tag:
            tagged = self.commit(after)
            return None if tagged is None else [tagged]
        base = before or self._project.details.get("default_branch")
        if base is None:
            return None
        compared = self.get("/repository/compare", answers.Comparison, **{"from": base, "to": after})
        commits: list[Json] | None = None if compared is None else compared["commits"]
        if before is None and commits == []:  # the default branch is new
            newest = self._newest(after)
            return None if newest is None else newest[::-1]
        return commits

    def noteable(self, note: Json) -> Json | None:
        """The object that a note belongs to."""
        match note.get("noteable_type"):
            case "Issue" | "WorkItem":
                return self.issue(note.get("noteable_iid"))
            case "MergeRequest":
                return self.merge_request(note.get("noteable_iid"))
            case "Commit":
                return self.commit(note.get("commit_id"))
            case "Snippet":
                return self.get(f"/snippets/{note.get('noteable_id')}", answers.Thing)
            case _:
                return None

    def page(self, slug: str) -> Json | None:
        return self.get(f"/wikis/{quote(slug, safe='')}", answers.WikiPage)

    def _newest(self, sha: str) -> list[Json] | None:
        """A branch's newest commits, as many as a webhook lists, newest first."""
        path, query = "/repository/commits", {"ref_name": sha, "per_page": MOST_COMMITS}

        def ask() -> list[Json]:
            page = next(self._client.pages(self._place(path), answers.Commit, query, tries=TRIES))
            return [commit.raw for commit in page.records]

        return self._once(f"{path}?{query}", ask)

    def _once(self, name: str, ask: Callable[[], T]) -> T | None:
        if name not in self._known:
            self._known[name] = self._try(name, ask)
        found: T | None = self._known[name]
        return found

    def _try(self, name: str, ask: Callable[[], T]) -> T | None:
        try:
            return ask()
        except GitLabRefused as error:
            if error.status == UNAUTHORISED:
                raise
            return None
        except Unavailable as error:
            if not self._client.is_alone(error):
                raise
            log.warning("detail not read", project=self._project.path, detail=name, error=str(error))
            return None

    def _place(self, path: str) -> str:
        return f"/projects/{self._project.id}{path}"
