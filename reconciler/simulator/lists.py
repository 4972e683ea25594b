"""The lists of objects that GitLab's API shows, and the objects themselves.

See docs/gitlab.md, "Lists of other objects".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from reconciler.simulator.paging import not_found, paged
from reconciler.simulator.things import Thing
from reconciler.simulator.world import SimProject, World

Find = Callable[[Request], "int | Response"]
Json = dict[str, Any]


class Lists:
    """Endpoints below `/projects/:id`. `find` gives the project that is asked about, or the answer that refuses."""

    def __init__(self, world: World, find: Find) -> None:
        self._world = world
        self._find = find

    def routes(self, project: str) -> list[Route]:
        own: dict[str, Callable[[SimProject, Request], Any]] = {
            "repository/compare": self._compare,
            "repository/commits/{sha}": lambda p, r: p.commits.get(r.path_params["sha"]),
            "repository/commits": self._commits,
            "pipelines/{id:int}/jobs": lambda p, r: self._jobs(p, r.path_params["id"]),
            "pipelines/{id:int}": lambda p, r: p.pipelines.get(r.path_params["id"]),
            "pipelines": lambda p, r: [_listed_pipeline(one) for one in _changed(p.pipelines.values(), r)],
            "jobs": lambda p, r: sorted(p.jobs.values(), key=lambda job: -job["id"]),
            "deployments": lambda p, r: _changed(p.deployments.values(), r),
            "releases": lambda p, r: sorted(p.releases.values(), key=lambda one: one["created_at"], reverse=True),
            "feature_flags": lambda p, r: [{k: v for k, v in f.items() if k != "number"} for f in p.flags.values()],
            "wikis/{slug}": lambda p, r: p.pages.get(r.path_params["slug"]),
            "milestones/{id:int}": self._milestone,
            "{folder}/{iid:int}/notes": lambda p, r: _newest_notes(_thing(p, r)),
            "{folder}/{iid:int}/notes/{note:int}/award_emoji": self._note_awards,
            "{folder}/{iid:int}/award_emoji": lambda p, r: _part(p, r, "awards"),
            "{folder}/{iid:int}/resource_label_events": lambda p, r: _part(p, r, "label_events"),
            "{folder}/{iid:int}/resource_milestone_events": lambda p, r: _part(p, r, "milestone_events"),
            "{folder}/{iid:int}/resource_state_events": lambda p, r: _part(p, r, "state_events"),
            "{folder}/{iid:int}/versions": lambda p, r: _newest_first(_part(p, r, "versions")),
            "{folder}/{iid:int}": lambda p, r: _shown(_thing(p, r), p),
            "issues": self._things("issues"),
            "merge_requests": self._things("merge_requests"),
        }
        return [Route(f"{project}/{path}", self._endpoint(answer)) for path, answer in own.items()]

    def _endpoint(self, answer: Callable[[SimProject, Request], Any]) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            found = self._find(request)
            if isinstance(found, Response):
                return found
            value = answer(self._world.projects[found], request)
            if value is None:
                return not_found()
            return paged(request, value) if isinstance(value, list) else JSONResponse(value)

        return endpoint

    def _compare(self, project: SimProject, request: Request) -> Json | None:
        old, new = request.query_params["from"], request.query_params["to"]
        commits = self._world.compare(project.place.id, old, new)
        return None if commits is None else {"commits": commits, "diffs": []}

    def _commits(self, project: SimProject, request: Request) -> list[Json]:
        commits = self._world.compare(project.place.id, "", request.query_params.get("ref_name", "main"))
        return (commits or [])[::-1]

    def _jobs(self, project: SimProject, pipeline: int) -> list[Json]:
        return [project.jobs[job] for job in self._world.jobs_of(project.place.id, pipeline)][::-1]

    def _milestone(self, project: SimProject, request: Request) -> Json | None:
        ident = request.path_params["id"]
        things = project.things.get("milestones", {}).values()
        return next((thing.shown(project.place) for thing in things if thing.id == ident), None)

    def _note_awards(self, project: SimProject, request: Request) -> list[Json]:
        return self._world.note_awards.get(request.path_params["note"], [])

    def _things(self, folder: str) -> Callable[[SimProject, Request], list[Json]]:
        def answer(project: SimProject, request: Request) -> list[Json]:
            things = project.things.get(folder, {}).values()
            return _changed([thing.shown(project.place) for thing in things], request)

        return answer


def _changed(shown: Iterable[Json], request: Request) -> list[Json]:
    """`updated_after`, `updated_before`, `order_by=updated_at`."""
    asked = request.query_params
    after, before = asked.get("updated_after"), asked.get("updated_before")
    found = [
        one
        for one in shown
        if (not after or _time(one["updated_at"]) >= _time(after))
        and (not before or _time(one["updated_at"]) <= _time(before))
    ]
    field = "updated_at" if asked.get("order_by") == "updated_at" else "id"
    return sorted(found, key=lambda one: one[field], reverse=asked.get("sort", "desc") == "desc")


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _listed_pipeline(shown: Json) -> Json:
    """The list shows less than the pipeline itself."""
    own = ("user", "started_at", "finished_at", "before_sha", "duration", "tag")
    return {name: value for name, value in shown.items() if name not in own}


def _thing(project: SimProject, request: Request) -> Thing | None:
    return project.things.get(request.path_params["folder"], {}).get(request.path_params["iid"])


def _shown(thing: Thing | None, project: SimProject) -> Json | None:
    return None if thing is None else thing.shown(project.place)


def _part(project: SimProject, request: Request, name: str) -> list[Json] | None:
    thing = _thing(project, request)
    return None if thing is None else list(getattr(thing, name))


def _newest_first(shown: list[Json] | None) -> list[Json] | None:
    return None if shown is None else shown[::-1]


def _newest_notes(thing: Thing | None) -> list[Json] | None:
    return None if thing is None else sorted(thing.notes, key=lambda note: note["updated_at"], reverse=True)
