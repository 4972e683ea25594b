"""Pushes, tags and wiki pages."""

from __future__ import annotations

from typing import Any

from reconciler.simulator import payloads
from reconciler.simulator.core import Core, Happening
from reconciler.simulator.payloads import ZEROS, Person, millis

MOST_COMMITS = 20


class Repository(Core):
    """What people do to a repository, and what its API shows of it."""

    def push(self, project_id: int, branch: str = "main", after: str | None = None) -> Happening:
        """A push to a branch: makes it where it is not there. `after` sets the new head (A to B and back)."""
        return self._move(project_id, f"refs/heads/{branch}", after or self.sha())

    def tag(self, project_id: int, name: str) -> Happening:
        return self._move(project_id, f"refs/tags/{name}", self.sha())

    def delete_ref(self, project_id: int, ref: str) -> Happening:
        return self._move(project_id, ref, ZEROS)

    def bulk_push(self, project_id: int, refs: int = 4) -> Happening:
        """More than three refs at once: no webhook, one record."""
        for n in range(refs):
            self.projects[project_id].heads[f"refs/heads/bulk-{n}"] = self.sha()
        record = payloads.bulk_push_record(refs, "branch")
        return self.happen(project_id, "bulk push", self.someone(), None, None, record)

    def wiki(self, project_id: int, slug: str, action: str = "create") -> Happening:
        """create, update or delete a page. The webhook has no time and no id; a deletion's record no slug."""
        title = slug.replace("-", " ").title()
        page = {"title": title, "content": self.sha(), "slug": slug, "format": "markdown"}
        who, project = self.someone(), self.projects[project_id]
        did = {"create": "created", "update": "updated", "delete": "destroyed"}[action]
        record = payloads.target_record(did, "WikiPage::Meta", self.new_id(), None, title)
        if action == "delete":
            project.pages.pop(slug, None)
        else:
            project.pages[slug] = page
            record["wiki_page"] = {"format": "markdown", "slug": slug, "title": title}
        body = payloads.object_webhook("wiki_page", project.place, who, page | {"action": action})
        del body["event_type"]
        return self.happen(project_id, f"wiki {action} {slug}", who, "Wiki Page Hook", body, record)

    def compare(self, project_id: int, old: str, new: str) -> list[dict[str, Any]] | None:
        """The commits that `new` has and `old` has not, oldest first; None where `new` is not known."""
        project = self.projects[project_id]
        old = project.heads.get(f"refs/heads/{old}", old)
        found, at = [], new
        while at in project.commits and at != old:
            found.append(project.commits[at])
            at = project.parents.get(at, "")
        return found[::-1] if new in project.commits else None

    def _move(self, project_id: int, ref: str, after: str) -> Happening:
        project, who = self.projects[project_id], self.someone()
        before = project.heads.get(ref, ZEROS)
        kind = ref.startswith("refs/tags/")
        if after == ZEROS:
            project.heads.pop(ref, None)
            commits: list[dict[str, Any]] = []
        else:
            base = before if before != ZEROS else project.heads.get("refs/heads/main", "")
            commit = project.commits.setdefault(after, self._commit(project.place.path, after, who))
            project.parents.setdefault(after, base)
            project.heads[ref] = after
            commits = [commit] if kind or ref == "refs/heads/main" else self._new_commits(project_id, before, after)
        title = None if after == ZEROS else f"Commit {after[:8]}"
        body = payloads.push_webhook(project.place, who, ref, before, after, commits)
        record = payloads.push_record(ref, before, after, title, len(commits))
        hook_event = "Tag Push Hook" if kind else "Push Hook"
        return self.happen(project_id, f"push {ref}", who, hook_event, body, record)

    def _new_commits(self, project_id: int, before: str, after: str) -> list[dict[str, Any]]:
        old = before if before != ZEROS else "main"
        return (self.compare(project_id, old, after) or [])[-MOST_COMMITS:]

    def _commit(self, path: str, sha: str, who: Person) -> dict[str, Any]:
        """As the API shows it."""
        return {
            "id": sha,
            "short_id": sha[:8],
            "title": f"Commit {sha[:8]}",
            "message": f"Commit {sha[:8]}\n",
            "author_name": who.username.title(),
            "author_email": f"{who.username}@example.com",
            "authored_date": millis(self.clock() - 3_600_000),
            "committed_date": millis(self.clock()),
            "created_at": millis(self.clock()),
            "web_url": f"https://gitlab.example.com/{path}/-/commit/{sha}",
        }
