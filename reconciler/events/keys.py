"""Builds keys. A webhook's body and an Events API record of one event give the same key."""

from __future__ import annotations

import hashlib
from typing import Any

from reconciler.events.fields import dig, first_number, first_text, number, text
from reconciler.events.kinds import KEY_WORDS, Mirrored, Unmirrored

ZEROS = "0" * 40
"""A push webhook's commit for "none": before a branch was created, after it was deleted."""

LONGEST = 1000


def bounded(key: str) -> str:
    """The key, shortened with a hash if it is longer than any that GitLab causes: keys are indexed.

    Without NUL, after which SQLite's functions see nothing of a text.
    """
    key = key.replace("\x00", "\ufffd")
    if len(key) <= LONGEST:
        return key
    return f"{key[:LONGEST]}…{hashlib.sha256(key.encode()).hexdigest()}"


def webhook_key(row: Mirrored, body: dict[str, Any], project: int | str | None) -> str | None:
    """The key of a webhook that the Events API mirrors; None if the body lacks a part of it.

    `project` is the project's id, or its path if the id is not known.
    """
    word = KEY_WORDS.get(row.kind, row.kind)
    match row.key_form:
        case "push":
            ref, before, after = text(body.get("ref")), text(body.get("before")), text(body.get("after"))
            if project is None or ref is None or before is None or after is None:
                return None
            return push(project, ref, before, after)
        case "wiki_page":
            slug = first_text(body, "object_attributes.slug")
            title = first_text(body, "object_attributes.title")
            return wiki_page(project, row.record, slug, title)
        case "member":
            user = number(body.get("user_id"))
            return member(project, user, row.record)
        case "note":
            target = first_number(body, "object_attributes.id")
            return None if target is None else note(target)
        case "object":
            target = first_number(body, "object_attributes.id")
            return None if target is None else of_object(word, target, row.record)
        case "object_and_user":
            target = first_number(body, "object_attributes.id")
            user = first_number(body, "user.id", "object_attributes.author_id")
            return None if target is None or user is None else by_user(word, target, row.record, user)


def unmirrored_key(
    row: Unmirrored, action: str | None, subject: str | None, project: int | str | None, sha: str
) -> str | None:
    """The key of a webhook without an Events API record; None if the body lacks a part of it.

    `subject` is the value at the row's `id`, `sha` the body's fingerprint.
    """
    if subject is None or (row.in_project and project is None):
        return None
    where = f"{project}:" if row.in_project else ""
    key = f"{KEY_WORDS.get(row.kind, row.kind)}:{where}{subject}:{action or 'changed'}"
    return key if row.listed else f"{key}:{sha[:32]}"


def listed(kind: str, subject: int | str, did: str, *, project: int | None = None) -> str:
    """The key of an entry in one of GitLab's lists: the same that `unmirrored_key` gives its webhook.

    Pass `project` if the kind's row has `in_project`.
    """
    where = "" if project is None else f"{project}:"
    return f"{KEY_WORDS.get(kind, kind)}:{where}{subject}:{did}"


def record_key(word: str, did: str, record: dict[str, Any], project: int) -> str | None:
    """The key of an Events API record; None if no webhook corresponds to it.

    `word` and `did` are the record's target and action as keys spell them.
    """
    target = number(record.get("target_id"))
    user = number(record.get("author_id"))
    match word:
        case "push":
            return _pushed(record, project)
        case "member":
            return member(project, user, did)
        case "wiki_page":
            slug = text(dig(record, "wiki_page.slug"))
            title = text(record.get("target_title")) or text(dig(record, "wiki_page.title"))
            return wiki_page(project, did, slug, title)
        case "note":
            return note(target) if target is not None and did == "commented" else None
        case "merge_request" if did == "approved":
            return None if target is None or user is None else by_user(word, target, did, user)
        case _:
            return None if target is None else of_object(word, target, did)


def _pushed(record: dict[str, Any], project: int) -> str | None:
    data = record.get("push_data")
    ref = text(dig(data, "ref"))
    if ref is None:  # a bulk push: `ref_count` refs in one record, and no webhook was sent
        return None
    folder = "tags" if dig(data, "ref_type") == "tag" else "heads"
    before = text(dig(data, "commit_from")) or ZEROS
    after = text(dig(data, "commit_to")) or ZEROS
    return push(project, f"refs/{folder}/{ref}", before, after)


def push(project: int | str, ref: str, before: str, after: str) -> str:
    return f"push:{project}:{ref}:{before}:{after}"


def of_object(word: str, target: int, did: str) -> str:
    return f"{word}:{target}:{did}"


def by_user(word: str, target: int, did: str, user: int) -> str:
    return f"{word}:{target}:{did}:{user}"


def note(target: int) -> str:
    return f"note:{target}"


def member(project: int | str | None, user: int | None, did: str) -> str | None:
    return None if project is None or user is None else f"member:{project}:{user}:{did}"


def wiki_page(project: int | str | None, did: str, slug: str | None, title: str | None) -> str | None:
    """The record of a destroyed page may have no slug, so both sides use the title then."""
    name = (title or slug) if did == "destroyed" else (slug or title)
    return None if project is None or name is None else f"wiki_page:{project}:{name}:{did}"
