"""Pipelines, jobs, deployments, releases, feature flags, and what only the hook log ever tells."""

from __future__ import annotations

from typing import Any

from reconciler.simulator import payloads
from reconciler.simulator.core import Core, Happening
from reconciler.simulator.payloads import Person, millis, offset, spelled_utc
from reconciler.simulator.things import Thing

FINISHED = ("success", "failed", "canceled", "skipped")


class Ci(Core):
    """What machines do. No record of the Events API tells of any of it."""

    def pipeline(self, project_id: int, status: str = "success") -> Happening:
        """A pipeline that is new and has this status already."""
        return self.pipeline_becomes(project_id, self.new_pipeline(project_id), status)

    def new_pipeline(self, project_id: int, request: Thing | None = None) -> int:
        """A pipeline with two jobs, which tell that they were made; it tells nothing until it becomes something. Of
        one that a merge request started the API shows the merge request's ref, the webhook its source branch.
        """
        ref = "main" if request is None else f"refs/merge-requests/{request.iid}/head"
        source = "push" if request is None else "merge_request_event"
        project, who, ident = self.projects[project_id], self.someone(), self.new_id()
        sha = project.heads.get("refs/heads/main", self.sha())
        now = millis(self.clock())
        project.pipelines[ident] = {
            "id": ident, "iid": ident - 1000, "project_id": project_id, "sha": sha, "ref": ref, "tag": False,
            "status": "created", "source": source, "created_at": now, "updated_at": now, "started_at": None,
            "finished_at": None, "before_sha": "0" * 40, "user": who.shown(), "duration": None, "name": None,
            "web_url": f"https://gitlab.example.com/{project.place.path}/-/pipelines/{ident}",
        }  # fmt: skip
        for name in ("build", "test"):
            job = self.new_id()
            project.jobs[job] = {
                "id": job, "name": name, "stage": name, "status": "created", "ref": ref, "tag": False,
                "created_at": now, "started_at": None, "finished_at": None, "duration": None, "queued_duration": None,
                "allow_failure": False, "user": who.shown(), "commit": {"id": sha, "message": "m\n"}, "runner": None,
                "pipeline": {"id": ident, "sha": sha, "ref": ref, "status": "created", "source": source},
            }  # fmt: skip
            self._tell_job(project_id, job)
        return ident

    def jobs_of(self, project_id: int, pipeline: int) -> list[int]:
        return [ident for ident, job in self.projects[project_id].jobs.items() if job["pipeline"]["id"] == pipeline]

    def pipeline_becomes(self, project_id: int, ident: int, status: str) -> Happening:
        project, now = self.projects[project_id], self.clock()
        shown = project.pipelines[ident]
        shown |= {"status": status, "updated_at": millis(now)}
        shown["finished_at"] = millis(now) if status in FINISHED else None
        attributes = {name: shown[name] for name in ("id", "iid", "tag", "sha", "source", "status", "before_sha")} | {
            "ref": "topic" if shown["source"] == "merge_request_event" else shown["ref"],
            "created_at": spelled_utc(_ms(shown["created_at"])),
            "finished_at": spelled_utc(now) if status in FINISHED else None,
        }
        who = self._person(shown)
        jobs = [project.jobs[job] for job in self.jobs_of(project_id, ident)]
        builds = [{name: job[name] for name in ("id", "name", "stage", "status")} for job in jobs]
        body = payloads.object_webhook("pipeline", project.place, who, attributes, builds=builds)
        body.pop("event_type")
        return self.happen(project_id, f"pipeline {status} {ident}", who, "Pipeline Hook", body, None)

    def job_becomes(self, project_id: int, ident: int, status: str) -> Happening:
        project, now = self.projects[project_id], self.clock()
        job = project.jobs[ident]
        job["status"] = status
        if status == "running":
            job["started_at"] = millis(now)
        if status in FINISHED:
            job["finished_at"] = millis(now)
        return self._tell_job(project_id, ident)

    def _tell_job(self, project_id: int, ident: int) -> Happening:
        project = self.projects[project_id]
        job = project.jobs[ident]
        status, who = job["status"], self._person(job)
        body = {
            "object_kind": "build", "ref": job["ref"], "tag": False, "sha": job["pipeline"]["sha"],
            "build_id": ident, "build_name": job["name"], "build_stage": job["stage"], "build_status": status,
            "build_created_at": spelled_utc(_ms(job["created_at"])),
            "build_started_at": job["started_at"] and spelled_utc(_ms(job["started_at"])),
            "build_finished_at": job["finished_at"] and spelled_utc(_ms(job["finished_at"])),
            "pipeline_id": job["pipeline"]["id"], "project_id": project_id, "user": who.short(),
            "project": project.place.shown(),
        }  # fmt: skip
        return self.happen(project_id, f"build {status} {ident}", who, "Job Hook", body, None)

    def new_deployment(self, project_id: int, environment: str = "production") -> int:
        project, ident, who = self.projects[project_id], self.new_id(), self.someone()
        now = millis(self.clock())
        project.deployments[ident] = {
            "id": ident, "iid": ident - 1000, "ref": "main", "sha": self.sha(), "status": "created",
            "created_at": now, "updated_at": now, "user": who.shown(), "deployable": None,
            "environment": {"id": 5, "name": environment, "slug": environment},
        }  # fmt: skip
        return ident

    def deployment_becomes(self, project_id: int, ident: int, status: str) -> Happening:
        project, now = self.projects[project_id], self.clock()
        shown = project.deployments[ident]
        shown |= {"status": status, "updated_at": millis(now)}
        who = self._person(shown)
        body = {
            "object_kind": "deployment", "status": status, "status_changed_at": offset(now), "deployment_id": ident,
            "environment": shown["environment"]["name"], "project": project.place.shown(), "user": who.short(),
            "short_sha": shown["sha"][:8], "ref": "main",
        }  # fmt: skip
        return self.happen(project_id, f"deployment {status} {ident}", who, "Deployment Hook", body, None)

    def release(self, project_id: int, tag: str, action: str = "create") -> Happening:
        """create, update or delete a release."""
        project, who, now = self.projects[project_id], self.someone(), self.clock()
        if action == "create":
            project.releases[tag] = {
                "tag_name": tag, "name": tag, "description": "First", "created_at": millis(now),
                "released_at": millis(now), "author": who.shown(), "assets": {"count": 0, "links": [], "sources": []},
            }  # fmt: skip
        shown = project.releases[tag]
        if action == "update":
            shown["description"] = f"Edited {self.new_id()}"
        if action == "delete":
            del project.releases[tag]
        body = {
            "object_kind": "release", "id": 9, "tag": tag, "name": tag, "description": shown["description"],
            "created_at": spelled_utc(_ms(shown["created_at"])), "action": action, "project": project.place.shown(),
        }  # fmt: skip
        return self.happen(project_id, f"release {action} {tag}", who, "Release Hook", body, None)

    def switch_flag(self, project_id: int, name: str = "dark-mode") -> Happening:
        """Makes the flag where it is not there, switches it over where it is."""
        project, who, now = self.projects[project_id], self.someone(), self.clock()
        shown = project.flags.get(name)
        if shown is None:
            shown = {
                "name": name,
                "description": "",
                "active": False,
                "created_at": millis(now),
                "number": self.new_id(),
            }
            project.flags[name] = shown
        shown |= {"active": not shown["active"], "updated_at": millis(now)}
        attributes = {"id": shown["number"], "name": name, "description": "", "active": shown["active"]}
        body = payloads.object_webhook("feature_flag", project.place, who, attributes)
        body.pop("event_type")
        return self.happen(project_id, f"feature flag {name}", who, "Feature Flag Hook", body, None)

    def token_expires(self, project_id: int) -> Happening:
        """Only the hook log ever tells of it again."""
        ident, place = self.new_id(), self.projects[project_id].place
        attributes = {"id": ident, "name": "bot", "user_id": 3, "created_at": spelled_utc(self.clock() - 86_400_000),
                      "expires_at": "2030-01-01"}  # fmt: skip
        body = {"object_kind": "access_token", "event_name": "expiring_access_token", "project": place.shown(),
                "object_attributes": attributes}  # fmt: skip
        return self.happen(project_id, f"token {ident}", self.people[0], "Resource Access Token Hook", body, None)

    def deploy_token_expires(self, project_id: int) -> Happening:
        """Only the hook log ever tells of it again."""
        ident, place = self.new_id(), self.projects[project_id].place
        attributes = {"id": ident, "name": "pulls", "username": f"gitlab+deploy-token-{ident}", "revoked": False,
                      "created_at": spelled_utc(self.clock() - 86_400_000), "expires_at": "2030-01-01 00:00:00 UTC",
                      "deploy_token_type": "project_type"}  # fmt: skip
        body = {"object_kind": "deploy_token", "project": place.shown(), "object_attributes": attributes,
                "event_name": "expiring_deploy_token"}  # fmt: skip
        return self.happen(project_id, f"token {ident}", self.people[0], "Resource Deploy Token Hook", body, None)

    def vulnerability(self, project_id: int) -> Happening:
        """Only the hook log ever tells of it again."""
        place, ident = self.projects[project_id].place, self.new_id()
        url = f"https://gitlab.example.com/{place.path}/-/security/vulnerabilities/{ident}"
        attributes = {"url": url, "title": f"CVE {ident}", "state": "detected", "severity": "high"}
        body = {"object_kind": "vulnerability", "project": place.shown(), "object_attributes": attributes}
        return self.happen(project_id, f"vulnerability {ident}", self.people[0], "Vulnerability Hook", body, None)

    def _person(self, shown: dict[str, Any]) -> Person:
        return Person(shown["user"]["id"], shown["user"]["username"])


def _ms(text: str) -> int:
    return payloads.from_millis(text)
