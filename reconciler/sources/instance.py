"""What can be asked before anything is configured: the instance, the token itself, and which projects it sees."""

from __future__ import annotations

from reconciler.sources import answers
from reconciler.sources.client import Client
from reconciler.sources.errors import GitLabRefused, SourceError, UnexpectedAnswer
from reconciler.sources.source import Project

SHOWN_PROJECTS = 20
"""How many projects a search returns at most."""
_ASKS_FOR_A_TOKEN = "401 Unauthorized"  # noqa: S105 - what GitLab answers


def version(client: Client) -> str:
    """The instance's version.

    Raises SourceError.
    """
    return client.get("/version", answers.Version).shown.version


def require_gitlab(client: Client) -> None:
    """Require that a GitLab answers, which may ask for a token.

    Raises SourceError.
    """
    try:
        version(client)
    except GitLabRefused as error:
        if error.status != 401 or error.said != _ASKS_FOR_A_TOKEN:
            raise SourceError(f"something answers, but not as GitLab does (HTTP {error.status})") from error
    except UnexpectedAnswer as error:
        raise SourceError(f"something answers, but not as GitLab does ({error.why})") from error


def own_token(client: Client) -> answers.Token:
    """The token itself, which may read the API.

    Raises SourceError.
    """
    token = client.get("/personal_access_tokens/self", answers.Token).shown
    if not {"read_api", "api"} & set(token.scopes):
        raise SourceError(f"its scopes are {', '.join(token.scopes) or 'none'}: it needs read_api")
    return token


def shown_token(token: answers.Token) -> str:
    """A token's scopes and expiry, for people."""
    until = "does not expire" if token.expires_at is None else f"expires {token.expires_at}"
    return f"scopes {', '.join(token.scopes)}; {until}"


def readable_project(client: Client, name: int | str) -> Project:
    """A project whose events the token may read.

    Raises SourceError.
    """
    project = client.project(name)
    next(client.pages(f"/projects/{project.id}/events", answers.Event, {"per_page": 1}))
    return project


def search_projects(client: Client, text: str) -> list[Project]:
    """Projects of which the token's user is a member, with this text in their name or path; SHOWN_PROJECTS at most.

    Raises SourceError.
    """
    query = {"membership": "true", "archived": "false", "search_namespaces": "true", "per_page": SHOWN_PROJECTS}
    if text:
        query["search"] = text
    page = next(client.pages("/projects", answers.ProjectAnswer, query))
    return [
        Project(found.shown.id, found.shown.path_with_namespace, found.raw)
        for found in page.records
        if not (found.shown.archived or found.shown.is_going)
    ]
