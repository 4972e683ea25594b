"""GitLab's words for actions and statuses as they read in a sentence."""

from __future__ import annotations

DONE: dict[str, str] = {
    "open": "opened",
    "close": "closed",
    "reopen": "reopened",
    "update": "updated",
    "merge": "merged",
    "approved": "approved",
    "approval": "added an approval to",
    "unapproved": "withdrew the approval of",
    "unapproval": "withdrew an approval of",
    "create": "created",
    "delete": "deleted",
}
"""What the author did to the object, by action."""

STATUS: dict[str, str] = {
    "success": "passed",
    "failed": "failed",
    "canceled": "was canceled",
    "canceling": "is being canceled",
    "skipped": "was skipped",
    "created": "was created",
    "manual": "waits for a manual action",
    "blocked": "waits for an approval",
    "waiting_for_resource": "waits for a resource",
    "waiting_for_callback": "waits for a callback",
}
"""What happened to a pipeline, job or deployment. Another status is a state: `is running`."""

FAMILIES: dict[str, str] = {
    "user_add_to_team": "{user} was added as {access}",
    "user_update_for_team": "{user} is {access} now",
    "user_remove_from_team": "{user} was removed",
    "user_access_request_to_project": "{user} asks for access",
    "user_access_request_revoked_for_project": "{user} no longer asks for access",
    "user_add_to_group": "{user} was added as {access}",
    "user_update_for_group": "{user} is {access} now",
    "user_remove_from_group": "{user} was removed",
    "user_access_request_to_group": "{user} asks for access",
    "user_access_request_revoked_for_group": "{user} no longer asks for access",
    "user_access_request_denied_for_group": "{user} was denied access",
    "project_create": "the project was created",
    "project_destroy": "the project was deleted",
    "project_rename": "the project was renamed from {old}",
    "project_transfer": "the project was moved from {old}",
    "project_update": "the project's settings were changed",
    "subgroup_create": "subgroup {path} was created",
    "subgroup_destroy": "subgroup {path} was deleted",
    "group_create": "group {path} was created",
    "group_destroy": "group {path} was deleted",
    "group_rename": "group {path} was renamed from {old}",
    "user_create": "user {user} was created",
    "user_destroy": "user {user} was deleted",
    "user_rename": "user {path} was renamed from {old}",
    "user_failed_login": "user {user} could not sign in",
    "key_create": "an SSH key of {user} was added",
    "key_destroy": "an SSH key of {user} was deleted",
}
"""Events of members, projects, groups, users and keys, by `event_name`."""


def shown(word: str) -> str:
    """A word of GitLab's for people: `merge_request` as `merge request`."""
    return word.replace("_", " ")
