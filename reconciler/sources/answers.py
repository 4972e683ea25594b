"""The parts of GitLab's answers that are read, as types.

A type has the fields that this program reads, and what it must know of those that it passes on: that a user is an
object, that commits are a list of objects. Everything else is optional, and passed on unchanged.

Every type of an answer is in this file, because they are prepared for threads at its end.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import msgspec

Json = dict[str, Any]

Id = Annotated[int, msgspec.Meta(gt=0, le=(1 << 63) - 1)]
"""An id that SQLite can store."""
Word = Annotated[str, msgspec.Meta(min_length=1)]


class Shape(msgspec.Struct, frozen=True):
    """The base of all types: any object of GitLab's. `name_in` is the field that identifies it."""

    name_in: ClassVar[str] = "id"


class Thing(Shape, frozen=True):
    """Any object. Only its id is read, if there is one."""

    id: Id | None = None


class Version(Shape, frozen=True):
    """`GET /version`."""

    version: str


class Token(Shape, frozen=True):
    """`GET /personal_access_tokens/self`."""

    scopes: list[str] = []
    expires_at: str | None = None


class ProjectAnswer(Shape, frozen=True):
    """`GET /projects/:id`, and the lists of projects."""

    id: Id
    path_with_namespace: Word
    default_branch: str | None = None
    archived: bool | None = None
    marked_for_deletion_at: str | None = None
    marked_for_deletion_on: str | None = None

    @property
    def is_going(self) -> bool:
        """Whether it is marked for deletion."""
        return bool(self.marked_for_deletion_at or self.marked_for_deletion_on)


class GroupAnswer(Shape, frozen=True):
    """`GET /groups/:id`."""

    id: Id
    full_path: Word


class Feed(Shape, frozen=True):
    """A record of the events feed. Only its project and its time matter."""

    project_id: Id | None = None
    created_at: str | None = None

    @property
    def active(self) -> tuple[int | None, str | None]:
        return self.project_id, self.created_at


class Recent(Shape, frozen=True):
    """A project in the list of the recently active ones."""

    id: Id | None = None
    last_activity_at: str | None = None

    @property
    def active(self) -> tuple[int | None, str | None]:
        return self.id, self.last_activity_at


class HookAnswer(Shape, frozen=True):
    """`GET /projects/:id/hooks`."""

    id: Id
    url: str
    alert_status: str | None = None
    disabled_until: str | None = None


class Logged(Shape, frozen=True):
    """A delivery in a webhook's log. With a custom template, `request_data` may be anything."""

    id: Id
    trigger: str | None = None
    request_headers: Json | None = None
    request_data: Any = None
    response_headers: Json | None = None
    response_status: str | int | None = None
    created_at: str | None = None


class PushData(Shape, frozen=True):
    """The push of a record. A bulk push has neither ref nor commits."""

    ref: str | None = None
    ref_type: str | None = None
    commit_from: str | None = None
    commit_to: str | None = None
    commit_title: str | None = None


class Note(Shape, frozen=True):
    """A comment."""

    id: Id
    body: str | None = None
    system: bool | None = None
    created_at: str | None = None
    updated_at: str | None = None
    resolved_at: str | None = None
    noteable_type: str | None = None
    noteable_id: Id | None = None
    noteable_iid: Id | None = None
    commit_id: str | None = None
    author: Json | None = None


class WikiPage(Shape, frozen=True):
    """A wiki page, on its own or in a record."""

    name_in = "slug"

    slug: str | None = None
    title: str | None = None


class Event(Shape, frozen=True):
    """A record of the Events API."""

    id: Id
    created_at: str
    action_name: str | None = None
    target_type: str | None = None
    target_id: Id | None = None
    target_iid: Id | None = None
    author: Json | None = None
    push_data: PushData | None = None
    note: Note | None = None
    wiki_page: WikiPage | None = None


class Label(Shape, frozen=True):
    id: Id | None = None


class Work(Shape, frozen=True):
    """An issue or a merge request."""

    id: Id
    iid: Id
    updated_at: str
    created_at: str | None = None
    prepared_at: str | None = None
    closed_at: str | None = None
    merged_at: str | None = None
    sha: str | None = None
    labels: list[str | Label] | None = None
    time_stats: Json | None = None


class Milestone(Shape, frozen=True):
    """`GET /projects/:id/milestones/:id`."""

    id: Id
    created_at: str | None = None


class Commit(Shape, frozen=True):
    """A commit."""

    id: Word


class Comparison(Shape, frozen=True):
    """`GET /projects/:id/repository/compare`."""

    commits: list[Commit]


class LabelEvent(Shape, frozen=True):
    """A change of an object's labels. A label that has since been deleted is null."""

    created_at: str | None = None
    user: Json | None = None
    action: str | None = None
    label: Label | None = None


class MilestoneEvent(Shape, frozen=True):
    """A change of an object's milestone."""

    created_at: str | None = None
    user: Json | None = None
    action: str | None = None
    milestone: Thing | None = None


class StateEvent(Shape, frozen=True):
    """A change of an object's state: closed, reopened, merged."""

    created_at: str | None = None
    user: Json | None = None


class RequestVersion(Shape, frozen=True):
    """A version of a merge request, made by a push."""

    id: Id
    created_at: str | None = None
    head_commit_sha: str | None = None


class Award(Shape, frozen=True):
    """An emoji on an object."""

    id: Id
    created_at: str
    user: Json | None = None


class Pipeline(Shape, frozen=True):
    """A pipeline, in a list or on its own."""

    id: Id
    status: Word
    updated_at: str | None = None
    finished_at: str | None = None
    sha: str | None = None


class Job(Shape, frozen=True):
    """A job."""

    id: Id
    status: Word
    stage: str | None = None
    created_at: str | None = None
    started_at: str | None = None
    finished_at: str | None = None
    pipeline: Json | None = None
    commit: Json | None = None
    artifacts_file: Json | None = None


class Deployable(Shape, frozen=True):
    """The job of a deployment."""

    commit: Json | None = None


class Deployment(Shape, frozen=True):
    """A deployment."""

    id: Id
    status: Word
    updated_at: str
    deployable: Deployable | None = None
    environment: Json | None = None


class Assets(Shape, frozen=True):
    """A release's assets."""

    links: list[Json] | None = None


class Release(Shape, frozen=True):
    """A release. GitLab leaves out the tag if the user may not see the code."""

    name_in = "tag_name"

    tag_name: Word
    created_at: str
    assets: Assets | None = None


class FeatureFlag(Shape, frozen=True):
    """A feature flag."""

    name_in = "name"

    name: Word
    active: bool
    updated_at: str


def _prepare() -> None:
    """Let msgspec read the annotations of every type here, while one thread imports this module.

    Otherwise msgspec does it when a type is first used. If another thread uses the type before that is done, the
    process ends with a segmentation fault (msgspec 0.22).
    """
    for shape in (Shape, *Shape.__subclasses__()):
        msgspec.json.Decoder(shape)


_prepare()
