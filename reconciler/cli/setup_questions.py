"""The five questions of `setup`. Each is asked again until its answer can be used, unless an option answers it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from reconciler.cli import setup_answers as answers
from reconciler.cli.asking import asked, asked_secretly, confirmed
from reconciler.cli.common import err
from reconciler.cli.setup_answers import Access, Place, Private, Wrong
from reconciler.sources.instance import SHOWN_PROJECTS
from reconciler.sources.source import Project

TOKEN_VARIABLE = "GITLAB_TOKEN"  # noqa: S105 - a name
DEFAULT_URL = "https://gitlab.com"
DEFAULT_FILE = "events.ndjson"

T = TypeVar("T")
A = TypeVar("A")


class Given(msgspec.Struct, frozen=True):
    """What the options answer, and whether the rest can be asked: on a terminal."""

    gitlab_url: str | None
    token_file: Path | None
    projects: list[str]
    destination: str | None
    allow_private: bool
    receiver_url: str | None
    create_webhooks: bool
    can_ask: bool

    @property
    def missing(self) -> list[str]:
        """The options that would be needed if nothing could be asked."""
        there = {
            "--gitlab-url": self.gitlab_url,
            f"--token-file or {TOKEN_VARIABLE}": self.token_file or token_in_environment(),
            "--project": self.projects,
            "--destination": self.destination,
        }
        return [name for name, value in there.items() if not value]


class Token(msgspec.Struct, frozen=True):
    """A token that GitLab accepts. `file`: where it is. `typed`: it is nowhere yet. Otherwise in the environment."""

    value: str
    access: Access
    file: Path | None = None
    typed: bool = False


class ToCreate(msgspec.Struct, frozen=True):
    """Webhooks to create in GitLab. `is_new`: their secret is one that no webhook has yet."""

    projects: list[Project]
    url: str
    secret: str
    is_new: bool


def token_in_environment() -> str:
    """The token in the environment, or nothing."""
    return os.environ.get(TOKEN_VARIABLE, "").strip()


def which_gitlab(given: Given) -> str:
    """The URL of a GitLab."""
    if given.gitlab_url is not None:
        found = _by_option("--gitlab-url", given.gitlab_url, answers.gitlab_url)
    else:
        _heading(1, "Which GitLab?")
        found = _until_usable(lambda: answers.gitlab_url(asked("URL", DEFAULT_URL)))
    _good(f"{found} is a GitLab")
    return found


def which_token(given: Given, url: str) -> Token:
    """A token for it: from a file, from the environment, or typed."""

    def in_file(file: Path) -> Token:
        value = answers.read_token(file)
        return Token(value, answers.access(url, value), file)

    def typed() -> Token:
        value = asked_secretly("Token (not shown)")
        return Token(value, answers.access(url, value), typed=True)

    if given.token_file is not None:
        found = _by_option("--token-file", given.token_file, in_file)
    elif value := token_in_environment():
        found = _by_option(TOKEN_VARIABLE, value, lambda value: Token(value, answers.access(url, value)))
    else:
        _heading(2, "Which access token may the service use?")
        err.print("  A project, group or personal access token. With the scope api and the role Maintainer, the")
        err.print("  service can create webhooks and read GitLab's log of them. With read_api, it only reads events.")
        found = _until_usable(typed)
    _good(f"GitLab {found.access.version} accepts the token: {found.access.shown}")
    return found


def which_projects(given: Given, access: Access) -> list[Project]:
    """The projects to reconcile, each once."""
    chosen: dict[int, Project] = {}

    def choose(found: list[Project]) -> None:
        for one in found:
            if one.id not in chosen:
                chosen[one.id] = one
                _good(f"project {one.path}, id {one.id}")

    if given.projects:
        for name in given.projects:
            choose([_by_option("--project", name, lambda name: answers.project(access.client, name))])
        return list(chosen.values())
    _heading(3, "Which projects?")
    while True:
        text = asked("Another one; Enter: continue" if chosen else "A path, an id, or part of a name; Enter: list")
        if chosen and not text:
            return list(chosen.values())
        try:
            choose(_searched(access, text))
        except Wrong as error:
            _bad(error)


def which_destination(given: Given, *, folder: Path, gitlab_url: str, own_files: list[Path]) -> Place:
    """Where events are delivered. `own_files` are the service's."""

    def use(text: str, *, allow_private: bool = given.allow_private) -> Place:
        return answers.destination(
            text, folder=folder, gitlab_url=gitlab_url, allow_private=allow_private, own_files=own_files
        )

    def ask() -> Place:
        text = asked("An http(s) URL, a file, or `stdout`", DEFAULT_FILE)
        try:
            return use(text)
        except Private as error:
            if not confirmed(f"{error}. Deliver to it?", default=False):
                raise
            return use(text, allow_private=True)

    if given.destination is None:
        _heading(4, "Where should events be delivered?")
        found = _until_usable(ask)
    else:
        try:
            found = _by_option("--destination", given.destination, use)
        except Private as error:
            raise Wrong(f"{error}: add --allow-private if that is intended", error.code) from error
    _good(f"{found.shown} accepted a test event")
    return found


def which_webhooks(given: Given, access: Access, projects: list[Project]) -> tuple[str | None, bool]:
    """The URL at which GitLab reaches the receiver, and whether to create the webhooks."""

    def ask() -> tuple[str | None, bool]:
        text = asked("URL, like https://events.example.com; Enter: later")
        if not text:
            return None, False
        url = answers.receiver_url(text)
        if not access.may_write:
            err.print("! The token can't create webhooks: it needs the scope api.", style="yellow")
            return url, False
        many = "the webhook" if len(projects) == 1 else f"{len(projects)} webhooks"
        if not confirmed(f"Create {many} now?", default=True):
            return url, False
        answers.try_webhooks(access, projects, url)
        return url, True

    if given.receiver_url is not None:
        url = _by_option("--receiver-url", given.receiver_url, answers.receiver_url)
        if given.create_webhooks:
            _by_option("--create-webhooks", url, lambda url: answers.try_webhooks(access, projects, url))
        return url, given.create_webhooks
    if not given.can_ask:
        return None, False
    _heading(5, "At which URL does GitLab reach this service?")
    return _until_usable(ask)


def create(access: Access, wanted: ToCreate) -> None:
    """Create the webhooks, and say so of each.

    Raises Wrong.
    """
    for done in answers.create_webhooks(access, wanted.projects, wanted.url, wanted.secret):
        _good(f"{done.project}: webhook {done.did}, {done.url}")
        warnings = [*done.warnings]
        if wanted.is_new and done.did != "created":
            warnings.append("its secret token is new: a service that was given another one rejects its events")
        for warning in warnings:
            err.print(f"  ! {warning}", style="yellow")


def _searched(access: Access, text: str) -> list[Project]:
    """The projects that are meant by a path, an id, or a choice among those that a search finds."""
    if text.isdigit() or "/" in text:
        try:
            return [answers.project(access.client, text)]
        except Wrong:
            if text.isdigit():
                raise
    found = answers.search(access.client, text)
    for number, one in enumerate(found, start=1):
        err.print(f"  {number:>2}  {one.path}")
    if len(found) == SHOWN_PROJECTS:
        err.print(f"  These are the first {SHOWN_PROJECTS}. For others, search for a longer part of the name.")
    picked = asked("Numbers, like 1,3, or `all`", "1" if len(found) == 1 else "")
    words = re.split(r"[,\s]+", picked.strip(", ")) if picked != "all" else map(str, range(1, len(found) + 1))
    numbers = {int(word) if word.isdigit() else 0 for word in words}
    if not numbers <= set(range(1, len(found) + 1)):
        raise Wrong(f"{picked!r}: should be numbers from 1 to {len(found)}")
    return [answers.project(access.client, str(found[number - 1].id)) for number in sorted(numbers)]


def _by_option(name: str, value: A, use: Callable[[A], T]) -> T:
    """What an option gave. It can't be asked for again."""
    try:
        return use(value)
    except Wrong as error:
        raise type(error)(f"{name}: {error}", error.code) from error


def _until_usable(ask: Callable[[], T]) -> T:
    while True:
        try:
            return ask()
        except Wrong as error:
            _bad(error)


def _heading(number: int, what: str) -> None:
    err.print(f"\n{number} of 5  {what}", style="bold")


def _good(what: str) -> None:
    err.print("✓", end=" ", style="green")
    err.print(what)


def _bad(error: Wrong) -> None:
    err.print("✗", end=" ", style="red")
    err.print(str(error))
