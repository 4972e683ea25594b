"""The words that a filter can name: kinds and actions of events. What can never let anything through is a mistake."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from difflib import get_close_matches

from reconciler.events.sighting import ALERT, HOOK_TEST
from reconciler.events.webhooks import KIND_OF, known_actions, webhook_of

_ACTIONS_OF = known_actions()
_ALERT_ACTIONS = frozenset({"opened", "over"})
_KINDS = frozenset(_ACTIONS_OF) | set(KIND_OF)
_ACTIONS = frozenset(action for actions in _ACTIONS_OF.values() for action in actions)

_OFTEN_MEANT = {
    "job": "build",
    "comment": "note",
    "tag": "tag_push",
    "wiki": "wiki_page",
    "mr": "merge_request",
    "pull_request": "merge_request",
    "confidential_issue": "issue",
    "confidential_note": "note",
    "resource_access_token": "access_token",
    "resource_deploy_token": "deploy_token",
    "opened": "open",
    "closed": "close",
    "reopened": "reopen",
    "merged": "merge",
    "deleted": "delete",
    "passed": "success",
    "cancelled": "canceled",
}
"""What GitLab's pages, triggers and other APIs call what its webhooks call by the word on the right."""
_ENDINGS = ("_events", "_event", "_hook")
_ALIKE = 0.8


def kind(word: str) -> str:
    """A kind, or an `event_name`. Raises ValueError for one that is misspelt; a word like no other may be a newer
    GitLab's, or a custom template's.
    """
    if word == HOOK_TEST:
        raise ValueError(f"{HOOK_TEST} goes to no destination")
    meant = None if word in _KINDS or word == ALERT else _meant(word, _KINDS)
    if meant is not None:
        raise ValueError(
            f"there is no kind {word!r}: did you mean {meant!r}? (where GitLab does call it so: "
            f"`expression: body.object_kind == '{word}'`)"
        )
    return word


def action(word: str) -> str:
    """An action. Raises ValueError for one that is misspelt."""
    return word if word in _ALERT_ACTIONS else _event_action(word)


def _event_action(word: str) -> str:
    meant = None if word in _ACTIONS else _meant(word, _ACTIONS)
    if meant is not None:
        raise ValueError(f"there is no action {word!r}: did you mean {meant!r}?")
    return word


def of_events(kinds: Iterable[str], actions: Iterable[str]) -> None:
    """What a destination for events can name. Raises ValueError."""
    if ALERT in kinds:
        raise ValueError(f"kinds: {ALERT} is for destinations with `type: alerts`")
    for word in actions:
        _event_action(word)


def of_alerts(kinds: Iterable[str], actions: Iterable[str]) -> None:
    """What a destination for alerts can name. Raises ValueError."""
    if any(word != ALERT for word in kinds):
        raise ValueError(f"kinds: with `type: alerts` there is but one, {ALERT}")
    if not _ALERT_ACTIONS.issuperset(actions):
        raise ValueError(f"actions: those of an alert are {_listed(sorted(_ALERT_ACTIONS), 'and')}")


def fit(kinds: Collection[str], actions: Collection[str] | None, *, branches: bool) -> None:
    """Whether each of these kinds can have one of the actions, each action one of the kinds, and, with `branches`,
    each kind a branch.

    Raises ValueError with what can never be. Of words that we don't know, all is possible.
    """
    known = {word: _actions_of(word) for word in kinds if word in _KINDS}
    if branches:
        bare = [word for word in known if not _has_branch(word)]
        if bare:
            raise ValueError(f"`branches` lets no {_listed(bare, 'or')} through: such an event has no branch")
    if actions is None:
        return
    for word, possible in known.items():
        if not possible & set(actions) and _ACTIONS.issuperset(actions):
            has = f"its actions are {_listed(sorted(possible), 'and')}" if possible else "it has no action"
            raise ValueError(f"`actions` lets no {word} through: {has}")
    if len(known) == len(kinds):
        for word in _ACTIONS.intersection(actions):
            if not any(word in possible for possible in known.values()):
                raise ValueError(f"{word!r} is no action of {_listed(list(kinds), 'or')}")


def likely_kind(word: str) -> str | None:
    """The kind that is meant by a word that is none; None where no kind is near, or it is one."""
    if word in _KINDS:
        return None
    return _meant(word, _KINDS) or next(iter(get_close_matches(word, sorted(_KINDS), n=1)), None)


def unknown_kinds(words: Iterable[str]) -> list[str]:
    """Those that this version does not know."""
    return [word for word in words if word not in _KINDS]


def unknown_actions(words: Iterable[str]) -> list[str]:
    """Those that this version does not know."""
    return [word for word in words if word not in _ACTIONS]


def _actions_of(word: str) -> frozenset[str]:
    return _ACTIONS_OF[word] if word in _ACTIONS_OF else frozenset({word})


def _has_branch(word: str) -> bool:
    name = KIND_OF.get(word, word)
    return name != "tag_push" and bool(webhook_of(name).ref)


def _meant(word: str, known: Collection[str]) -> str | None:
    """The known word that somebody means who writes this one."""
    plain = word.strip().lower().replace(" ", "_").replace("-", "_")
    for ending in _ENDINGS:
        plain = plain.removesuffix(ending)
    plain = _OFTEN_MEANT.get(plain, plain)
    if plain in known:
        return plain
    return next(iter(get_close_matches(plain, sorted(known), n=1, cutoff=_ALIKE)), None)


def _listed(words: list[str], conjunction: str) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {conjunction} {words[-1]}"
