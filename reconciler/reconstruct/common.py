"""The common parts of bodies: project, user, label, commit, and GitLab's time formats.

Field names are those of GitLab's code that builds webhook bodies (`lib/gitlab/hook_data`, `lib/gitlab/data_builder`)
and of its recorded payloads; docs/reconstruction.md has the result of a test that compares the two.
"""

from __future__ import annotations

import re
from typing import Any

from reconciler.events import times
from reconciler.events.fingerprint import REDACTED
from reconciler.reconstruct.source_data import UNKNOWN, Guess, Json, known

VISIBILITY = {"private": 0, "internal": 10, "public": 20}
"""`visibility` in the API, `visibility_level` in a webhook."""


def when(value: Any) -> Any:
    """A time as most webhooks write it: `2017-12-10 16:41:28 UTC`. Other values are returned unchanged."""
    millis = times.parse(value)
    return value if millis is None else times.iso(millis)[:19].replace("T", " ") + " UTC"


def xmlschema(value: Any) -> Any:
    """A time as commits write it, in the author's zone: `2017-12-10T08:28:36-08:00`. The API adds milliseconds."""
    return _FRACTION.sub("", value) if isinstance(value, str) else value


_FRACTION = re.compile(r"(?<=:\d\d)\.\d+")


def when_iso(value: Any) -> Any:
    """A time as jobs write it beside `when`: `2017-12-10T16:41:28Z`."""
    millis = times.parse(value)
    return value if millis is None else times.iso(millis)[:19] + "Z"


def project(place: Json) -> Json:
    """`project`, with the old names that GitLab still sends."""
    url, ssh, http = (known(place, name) for name in ("web_url", "ssh_url_to_repo", "http_url_to_repo"))
    namespace = place.get("namespace")
    level = VISIBILITY.get(str(place.get("visibility")), UNKNOWN)
    return {
        "id": known(place, "id"),
        "name": known(place, "name"),
        "description": known(place, "description"),
        "web_url": url,
        "avatar_url": known(place, "avatar_url"),
        "git_ssh_url": ssh,
        "git_http_url": http,
        "namespace": namespace.get("name") if isinstance(namespace, dict) else UNKNOWN,
        "visibility_level": level,
        "path_with_namespace": known(place, "path_with_namespace"),
        "default_branch": known(place, "default_branch"),
        "ci_config_path": known(place, "ci_config_path"),
        "homepage": url,
        "url": ssh,
        "ssh_url": ssh,
        "http_url": http,
    }


def ci_project(place: Json) -> Json:
    """`project` without the old names, as in pipelines."""
    return {name: value for name, value in project(place).items() if name not in _OLDER}


_OLDER = {"homepage", "url", "ssh_url", "http_url"}


def repository(place: Json) -> Json:
    """`repository`, as in issues, merge requests and notes."""
    return {
        "name": known(place, "name"),
        "url": known(place, "ssh_url_to_repo"),
        "description": known(place, "description"),
        "homepage": known(place, "web_url"),
    }


def full_repository(place: Json) -> Json:
    """`repository`, as in pushes and jobs."""
    return repository(place) | {
        "git_http_url": known(place, "http_url_to_repo"),
        "git_ssh_url": known(place, "ssh_url_to_repo"),
        "visibility_level": VISIBILITY.get(str(place.get("visibility")), UNKNOWN),
    }


def person(user: Any) -> Any:
    """A user. Webhooks show only public e-mail addresses; the API rarely shows any."""
    if not isinstance(user, dict) or not user:
        return None if user is None else UNKNOWN
    return {
        "id": known(user, "id"),
        "name": known(user, "name"),
        "username": known(user, "username"),
        "avatar_url": known(user, "avatar_url"),
        "email": user.get("public_email") or Guess(REDACTED),
    }


def actor(user: Any) -> Any:
    """The user who did it: never null, but possibly unknown."""
    return person(user) if user else UNKNOWN


def commit(shown: Any, *, files: bool = False) -> Any:
    """A commit. `files`: with empty lists of changed files, which would cost a request for each commit."""
    if not isinstance(shown, dict):
        return UNKNOWN
    made = {
        "id": known(shown, "id"),
        "message": known(shown, "message"),
        "title": known(shown, "title"),
        "timestamp": xmlschema(known(shown, "committed_date", "created_at")),
        "url": known(shown, "web_url"),
        "author": {"name": known(shown, "author_name"), "email": known(shown, "author_email")},
    }
    if files:
        made |= {name: Guess([]) for name in ("added", "modified", "removed")}
    return made


def labels(shown: Any, project_id: Any) -> Any:
    """Labels: the API has their names, or with `with_labels_details` also id, colour and description."""
    if not isinstance(shown, list):
        return UNKNOWN
    return [_label(one, project_id) for one in shown]


def _label(shown: Any, project_id: Any) -> Json:
    if not isinstance(shown, dict):
        shown = {"name": shown}
    return {
        "id": known(shown, "id"),
        "title": known(shown, "name", "title"),
        "color": known(shown, "color"),
        "project_id": Guess(project_id),
        "created_at": UNKNOWN,
        "updated_at": UNKNOWN,
        "template": Guess(False),
        "description": known(shown, "description"),
        "type": Guess("ProjectLabel"),
        "group_id": UNKNOWN,
    }


def ids(people: Any) -> Any:
    return [one.get("id") for one in people if isinstance(one, dict)] if isinstance(people, list) else UNKNOWN


def people(shown: Any) -> Any:
    return [person(one) for one in shown if isinstance(one, dict)] if isinstance(shown, list) else UNKNOWN


def reviewers(shown: Any) -> Any:
    """Reviewers. Their state is in another list, which is not read."""
    found = people(shown)
    return found if found is UNKNOWN else [one | {"state": UNKNOWN, "re_requested": Guess(False)} for one in found]


def unless_empty(name: str, found: Any) -> Json:
    """A list that GitLab leaves out if it is empty."""
    return {} if found == [] else {name: found}


def id_of(shown: Any) -> Any:
    """The id of a nested object that may be null or missing."""
    if shown is UNKNOWN or shown is None:
        return shown
    return shown.get("id", UNKNOWN) if isinstance(shown, dict) else UNKNOWN


def human(seconds: Any) -> Any:
    """A duration as GitLab writes it: `1h 30m`; null for none."""
    if not isinstance(seconds, int):
        return UNKNOWN
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    parts = [f"{n}{unit}" for n, unit in ((hours, "h"), (minutes, "m"), (rest, "s")) if n]
    return " ".join(parts) or None
