"""The link from an event to what it is about, in GitLab. Bodies are from outside, so a link is checked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from reconciler.events.fields import dig

_PLACES = ("object_attributes.url", "url", "commit.url", "release.url")
_PROJECT = ("project.web_url", "group.web_url", "repository.homepage")
# A browser reads a backslash as a slash, and skips tabs and line ends: none of them is in a link of ours.
_PLAIN = re.compile(r"https?://[A-Za-z0-9.\-:\[\]]+(?:[/?#][!#$%&'()*+,\-./0-9:;=?@A-Z\[\]_a-z~]*)?")
_PORTS = {"http": 80, "https": 443}
_LONGEST = 2000


def gitlab_link(body: Any, gitlab_url: str) -> str | None:
    """The first URL in a body that leads to this GitLab: of the object itself, of its last commit, or of its project.
    None if there is none.
    """
    return next((url for url in _urls(body) if leads_to(url, gitlab_url)), None)


def leads_to(url: Any, gitlab_url: str) -> bool:
    """Whether this is an http or https URL of the same host. Its port may be the usual one: GitLab may know itself by
    another address than this service does.
    """
    if not isinstance(url, str) or len(url) > _LONGEST or _PLAIN.fullmatch(url) is None:
        return False
    try:
        there, here = urlsplit(url), urlsplit(gitlab_url)
        port, own = there.port or _PORTS[there.scheme], here.port or _PORTS[here.scheme]
    except (ValueError, KeyError):
        return False
    return there.hostname == here.hostname and port in (own, _PORTS[there.scheme])


def _urls(body: Any) -> Iterator[Any]:
    for place in _PLACES:
        yield dig(body, place)
    commits = dig(body, "commits")
    if isinstance(commits, list) and commits:
        yield dig(commits[-1], "url")
    for place in _PROJECT:
        yield dig(body, place)
