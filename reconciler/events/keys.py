"""The keys: what a webhook's body and an Events API record both say of one event, written the same way."""

from __future__ import annotations

import hashlib
from typing import Any

from reconciler.events.fields import dig, first_number, first_text, number, text
from reconciler.events.kinds import KEY_WORDS, Mirrored, Unmirrored

ZEROS = "0" * 40
"""What a push webhook writes for "nothing": before a branch was created, after it was deleted."""

LONGEST = 1000


def bounded(key: str) -> str:
    """The key, or what stands for one that is longer than anything GitLab writes: keys are in indexes."""
    if len(key) <= LONGEST:
        return key
    return f"{key[:LONGEST]}…{hashlib.sha256(key.encode()).hexdigest()}"


def webhook_key(row: Mirrored, body: dict[str, Any], project: int | str | None) -> str | None:
    """The key of a webhook that the Events API mirrors, or None where the body lacks what the key needs.

    `project` is the project's id, or its path where the id is not known.
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
    """The key of a webhook without an Events API record, or None where the body lacks what the key needs.

    `subject` is what stands at the row's `id`, `sha` the body's fingerprint.
    """
    if subject is None or (row.in_project and project is None):
        return None
    where = f"{project}:" if row.in_project else ""
    key = f"{KEY_WORDS.get(row.kind, row.kind)}:{where}{subject}:{action or 'changed'}"
    return key if row.listed else f"{key}:{sha[:32]}"


def listed(kind: str, subject: int | str, did: str, *, project: int | None = None) -> str:
    """The key of what one of GitLab's lists shows: the one that `unmirrored_key` gives its webhook.

    `project` where the row of the kind says `in_project`.
    """
    where = "" if project is None else f"{project}:"
    return f"{KEY_WORDS.get(kind, kind)}:{where}{subject}:{did}"


def record_key(word: str, did: str, record: dict[str, Any], project: int) -> str | None:
    """The key of an Events API record, or None where it has no webhook to match.

    `word` and `did` are the record's target and action in the words of the keys.
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
    """A destroyed page's record may have no slug: there, both sides go by the title."""
    name = (title or slug) if did == "destroyed" else (slug or title)
    return None if project is None or name is None else f"wiki_page:{project}:{name}:{did}"
