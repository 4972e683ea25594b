"""What `setup` does with each answer: it tries it at once, and raises Wrong with the reason if it can't be used."""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
from pydantic import SecretStr, TypeAdapter, ValidationError

from reconciler.cli.common import FAILED, USAGE, project_name, without_logs
from reconciler.cli.sample import scalar
from reconciler.config.basics import GitLabUrl, HeaderSecret, ReceiverUrl, host_and_port
from reconciler.config.destination_kinds import find_kind
from reconciler.config.destinations import Destination
from reconciler.config.messages import message_for
from reconciler.config.models import GitLab, HookConfig, Receiver
from reconciler.events.texts import without_credentials
from reconciler.forwarding.addresses import private_addresses
from reconciler.forwarding.trial import try_out
from reconciler.polling.ensure import Ensured, ensure_in
from reconciler.sources import instance
from reconciler.sources.client import Client
from reconciler.sources.errors import GitLabRefused, SourceError
from reconciler.sources.hooks import Hooks
from reconciler.sources.source import Project

PATIENCE = "10s"
"""How long an answer of GitLab may take: somebody waits for it."""


class Wrong(Exception):
    """An answer can't be used. `code`: USAGE if it is malformed, FAILED if it was tried."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(without_credentials(message))
        self.code = code


class Private(Wrong):
    """A destination's address is not public: deliver there only if that is intended."""


class Access(msgspec.Struct, frozen=True):
    """A GitLab, and a token that it accepts. `may_write`: the token can create webhooks, if its role allows it."""

    client: Client
    shown: str
    version: str
    may_write: bool


class Place(msgspec.Struct, frozen=True):
    """A destination that accepted the test event: itself, its lines in the config, and where it is for people."""

    destination: Destination
    lines: list[str]
    shown: str


def gitlab_url(text: str) -> str:
    """The URL of a GitLab that answers."""
    url: str = _valid(GitLabUrl, text).rstrip("/")
    try:
        instance.require_gitlab(_client(url, None))
    except SourceError as error:
        raise Wrong(f"{url}: {error}") from error
    return url


def access(url: str, token: str) -> Access:
    """What a token may do in this GitLab."""
    secret: SecretStr = _valid(HeaderSecret, token)
    if not token:
        raise Wrong("the token is empty", USAGE)
    client = _client(url, secret)
    try:
        version = instance.version(client)
        own = instance.own_token(client)
    except GitLabRefused as error:
        why = "it is wrong, expired or revoked" if error.status == 401 else str(error)
        raise Wrong(f"{url} does not accept the token: {why}") from error
    except SourceError as error:
        raise Wrong(f"the token: {error}") from error
    return Access(client, instance.shown_token(own), version, "api" in own.scopes)


def read_token(file: Path) -> str:
    """A token from a file."""
    try:
        text = file.expanduser().read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise Wrong(f"can't read {file}: {why}", USAGE) from error
    if not text:
        raise Wrong(f"{file} is empty", USAGE)
    return text


def project(client: Client, text: str) -> Project:
    """The project with this id or path."""
    name = project_name(text)
    if name is None or (isinstance(name, str) and not re.fullmatch(r"[^/\s]+(/[^/\s]+)+", name)):
        raise Wrong(f"{text!r} should be a project's numeric id or its path like `group/project`", USAGE)
    try:
        return instance.readable_project(client, name)
    except SourceError as error:
        raise Wrong(f"project {text}: {error}") from error


def search(client: Client, text: str) -> list[Project]:
    """The projects with this in their name or path."""
    try:
        found = instance.search_projects(client, text)
    except SourceError as error:
        raise Wrong(f"the search failed: {error}") from error
    if not found:
        which = f"with {text!r} in its name" if text else "at all"
        raise Wrong(f"the token's user is a member of no project {which}: a path or an id finds others, too")
    return found


def destination(text: str, *, folder: Path, gitlab_url: str, allow_private: bool, own_files: list[Path]) -> Place:
    """The destination that is meant, which accepted a test event. It can't be one of the service's own files."""
    settings, lines = _meant(text, allow_private=allow_private)
    made: Destination = _valid(find_kind(settings["kind"]).config, settings, folder=folder)
    path: Path | None = getattr(made, "path", None)
    if path is not None and path.resolve() in [one.expanduser().resolve() for one in own_files]:
        raise Wrong(f"{text}: is a file of the service itself: give another name", USAGE)
    with _no_file_left(path), without_logs():
        answer = asyncio.run(_tried(made, gitlab_url))
    shown = text if path is not None else find_kind(made.kind)(made).address  # without logins and tokens
    if answer is not None:
        raise Wrong(f"{shown} did not accept the test event: {answer}")
    return Place(made, lines, shown)


def receiver_url(text: str) -> str:
    """The base URL at which GitLab reaches the receiver."""
    url: str = _valid(ReceiverUrl, text).rstrip("/")
    return url


def create_webhooks(access: Access, projects: list[Project], url: str, token: str) -> Iterator[Ensured]:
    """Create our webhook in each project, or update the one that is there. Stops at the first that GitLab refuses."""
    yield from _ensured(access, projects, url, token, dry_run=False)


def try_webhooks(access: Access, projects: list[Project], url: str) -> None:
    """See whether the webhooks of each project can be read, which needs the same role as creating one."""
    for _ in _ensured(access, projects, url, secrets.token_urlsafe(24), dry_run=True):
        pass


def _ensured(access: Access, projects: list[Project], url: str, token: str, *, dry_run: bool) -> Iterator[Ensured]:
    if not access.may_write:
        raise Wrong(f"the token has the {access.shown}: creating a webhook needs the scope api")
    hook = HookConfig(token=SecretStr(token))
    hooks = Hooks(access.client, Receiver(url=url, hooks=[hook]))
    for one in projects:
        try:
            yield asyncio.run(ensure_in(one, hook, hooks=hooks, dry_run=dry_run))
        except SourceError as error:
            why = str(error)
            if isinstance(error, GitLabRefused) and error.status in (403, 404):
                why = f"HTTP {error.status}: the token needs the role Maintainer"
            raise Wrong(f"project {one.path}: the webhook can't be created: {why}") from error


def webhook_token(file: Path) -> tuple[str, bool]:
    """The token in a file, or a new one if there is no file; and whether it is new.

    Webhooks may have the token of the file: with another one, what they send would be rejected.
    """
    if not file.exists():
        return secrets.token_urlsafe(24), True
    found = read_token(file)
    try:
        _valid(HookConfig, {"token": found})
    except Wrong as error:
        raise Wrong(f"{file}: can't be used as a webhook's token: {error}: remove it", USAGE) from error
    return found, False


def _client(url: str, token: SecretStr | None) -> Client:
    return Client(GitLab(url=url, token=token, timeout=PATIENCE), tries=1)


def _meant(text: str, *, allow_private: bool) -> tuple[dict[str, Any], list[str]]:
    """The settings of a destination, and its lines in the config."""
    if text == "stdout":
        lines = ["  - name: stdout", "    kind: stdout # a line of JSON for each event"]
        return {"name": "stdout", "kind": "stdout"}, lines
    if text.startswith(("http://", "https://")):
        lines = ["  - name: service", "    kind: http", f"    url: {scalar(text)}"]
        settings: dict[str, Any] = {"name": "service", "kind": "http", "url": text}
        if not allow_private and (found := _private(text)):
            raise Private(f"{found} is not a public address", USAGE)
        if allow_private:
            settings["allow_private"] = True
            lines.append("    allow_private: true # its address need not be public")
        return settings, lines
    if "://" in text or re.match(r"[\w-]+(\.[\w-]+)+(:\d+)?/", text):
        what = "a URL that begins with https:// or http://, a file's path, or `stdout`"
        raise Wrong(f"{text}: should be {what}; for brokers, edit the config that `init` writes", USAGE)
    if not text.isprintable():
        raise Wrong(f"{text}: has characters that can't be printed, or are not UTF-8: give another name", USAGE)
    return {"name": "archive", "kind": "file", "path": text}, [
        "  - name: archive",
        "    kind: file # a line of JSON for each event",
        f"    path: {scalar(text)} # relative to this file",
    ]


def _private(url: str) -> str | None:
    """The first address of a URL's host that is not public, and the host."""
    try:
        host, port = host_and_port(url, 443)
        found = asyncio.run(private_addresses(host, port)) if host else []
    except ValueError:  # the config's own check says it
        return None
    if not found:
        return None
    return str(found[0]) if urlsplit(url).hostname == str(found[0]) else f"{found[0]} ({host})"


async def _tried(destination: Destination, gitlab_url: str) -> str | None:
    """Why a test event was not accepted; None if it was."""
    answer = (await try_out(destination, gitlab_url=gitlab_url)).answer
    return None if answer.accepted else answer.error or f"HTTP {answer.status}"


@contextlib.contextmanager
def _no_file_left(path: Path | None) -> Iterator[None]:
    """Remove a file, and the folders around it, that only the test event made."""
    new = [] if path is None else [one for one in (path, *path.parents) if not one.exists()]
    try:
        yield
    finally:
        for one in new:
            with contextlib.suppress(OSError):
                one.unlink() if one == path else one.rmdir()


def _valid(shape: Any, value: Any, *, folder: Path | None = None) -> Any:
    """A value as the config would take it."""
    try:
        return TypeAdapter(shape).validate_python(value, context={"folder": folder or Path()})
    except ValidationError as error:
        first = error.errors()[0]
        message = message_for(first["type"], first["msg"], first["input"], first.get("ctx", {}))
        raise Wrong(message, USAGE) from None
