"""The kinds and actions that a filter may contain. A filter that can never match is a mistake."""

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
"""Words of GitLab's pages, triggers and other APIs, and the word that its webhooks use for the same."""
_ENDINGS = ("_events", "_event", "_hook")
_ALIKE = 0.8


def kind(word: str) -> str:
    """A kind or an `event_name`. Raises ValueError for a misspelt one. An unknown word that resembles no other is
    accepted: it may be from a newer GitLab or a custom template.
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
    """An action. Raises ValueError for a misspelt one."""
    return word if word in _ALERT_ACTIONS else _event_action(word)


def _event_action(word: str) -> str:
    meant = None if word in _ACTIONS else _meant(word, _ACTIONS)
    if meant is not None:
        raise ValueError(f"there is no action {word!r}: did you mean {meant!r}?")
    return word


def of_events(kinds: Iterable[str], actions: Iterable[str]) -> None:
    """Check the filter of a destination for events. Raises ValueError."""
    if ALERT in kinds:
        raise ValueError(f"kinds: {ALERT} is for destinations with `type: alerts`")
    for word in actions:
        _event_action(word)


def of_alerts(kinds: Iterable[str], actions: Iterable[str]) -> None:
    """Check the filter of a destination for alerts. Raises ValueError."""
    if any(word != ALERT for word in kinds):
        raise ValueError(f"kinds: with `type: alerts` the only kind is {ALERT}")
    if not _ALERT_ACTIONS.issuperset(actions):
        raise ValueError(f"actions: those of an alert are {_listed(sorted(_ALERT_ACTIONS), 'and')}")


def fit(kinds: Collection[str], actions: Collection[str] | None, *, branches: bool) -> None:
    """Check that each kind can have one of the actions, each action belongs to one of the kinds, and, with
    `branches`, each kind has a branch.

    Raises ValueError for a combination that can never match. Unknown words may match anything.
    """
    known = {word: _actions_of(word) for word in kinds if word in _KINDS}
    if branches:
        bare = [word for word in known if not _has_branch(word)]
        if bare:
            raise ValueError(f"`branches` never matches {_listed(bare, 'or')}: such an event has no branch")
    if actions is None:
        return
    for word, possible in known.items():
        if not possible & set(actions) and _ACTIONS.issuperset(actions):
            has = f"its actions are {_listed(sorted(possible), 'and')}" if possible else "it has no action"
            raise ValueError(f"`actions` never matches {word}: {has}")
    if len(known) == len(kinds):
        for word in _ACTIONS.intersection(actions):
            if not any(word in possible for possible in known.values()):
                raise ValueError(f"{word!r} is not an action of {_listed(list(kinds), 'or')}")


def likely_kind(word: str) -> str | None:
    """The kind that is probably meant by an unknown word; None if no kind is similar, or it is a kind."""
    if word in _KINDS:
        return None
    return _meant(word, _KINDS) or next(iter(get_close_matches(word, sorted(_KINDS), n=1)), None)


def unknown_kinds(words: Iterable[str]) -> list[str]:
    """The words that this version does not know."""
    return [word for word in words if word not in _KINDS]


def unknown_actions(words: Iterable[str]) -> list[str]:
    """The words that this version does not know."""
    return [word for word in words if word not in _ACTIONS]


def _actions_of(word: str) -> frozenset[str]:
    return _ACTIONS_OF[word] if word in _ACTIONS_OF else frozenset({word})


def _has_branch(word: str) -> bool:
    name = KIND_OF.get(word, word)
    return name != "tag_push" and bool(webhook_of(name).ref)


def _meant(word: str, known: Collection[str]) -> str | None:
    """The known word that is probably meant; None if none is similar."""
    plain = word.strip().lower().replace(" ", "_").replace("-", "_")
    for ending in _ENDINGS:
        plain = plain.removesuffix(ending)
    plain = _OFTEN_MEANT.get(plain, plain)
    if plain in known:
        return plain
    return next(iter(get_close_matches(plain, sorted(known), n=1, cutoff=_ALIKE)), None)


def _listed(words: list[str], conjunction: str) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {conjunction} {words[-1]}"
