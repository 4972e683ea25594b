"""What migration 0010 does to the rows of older versions: kinds and times as they are written now.

It looks at each event once, and at the sightings of those that it changes. Frozen, as every released migration.
"""

from __future__ import annotations

_FAMILIES = {
    "member": (
        "user_add_to_team user_update_for_team user_remove_from_team user_access_request_to_project "
        "user_access_request_revoked_for_project user_add_to_group user_update_for_group user_remove_from_group "
        "user_access_request_to_group user_access_request_revoked_for_group user_access_request_denied_for_group"
    ),
    "project": "project_create project_destroy project_rename project_transfer project_update",
    "subgroup": "subgroup_create subgroup_destroy",
    "group": "group_create group_destroy group_rename",
    "user": "user_create user_destroy user_rename user_failed_login",
    "key": "key_create key_destroy",
}
_RENAMED = [f"('{word}', '{kind}', '{word}')" for kind, names in _FAMILIES.items() for word in names.split()]
_RENAMED += [
    "('designmanagement::design', 'design', NULL)",
    "('personalsnippet', 'snippet', NULL)",
    "('projectsnippet', 'snippet', NULL)",
]
_FALSE_TIME = "({0} NOT GLOB '[0-9][0-9][0-9][0-9]-*' OR {0} < '2011' OR {0} >= '2100')"

_FAMILIES_ARE_KINDS = (
    "CREATE TEMP TABLE renamed (word TEXT PRIMARY KEY, kind TEXT NOT NULL, action TEXT)",
    f"INSERT INTO renamed VALUES {', '.join(_RENAMED)}",
    "CREATE TEMP TABLE changed AS SELECT e.id, r.kind, r.action FROM events e JOIN renamed r ON r.word = e.kind",
    """
    UPDATE sightings SET kind = c.kind, action = coalesce(c.action, sightings.action)
      FROM changed c WHERE sightings.event_id = c.id
    """,
    "UPDATE events SET kind = c.kind FROM changed c WHERE events.id = c.id",
    """
    UPDATE search SET kind = (
        SELECT e.kind || ' ' || coalesce(s.action, '')
          FROM events e JOIN sightings s ON s.id = e.sighting_id WHERE e.id = search.rowid
    ) WHERE rowid IN (SELECT id FROM changed)
    """,
    "DROP TABLE changed",
    "DROP TABLE renamed",
)
"""What happened to a member, say, is the action of the kind `member`, and no kind of its own."""

_VULNERABILITIES_HAVE_PROJECTS = (
    """
    UPDATE sightings SET project_id = json_extract(payload, '$.object_attributes.project_id')
     WHERE event_id IN (SELECT id FROM events WHERE kind = 'vulnerability' AND project_id IS NULL)
       AND project_id IS NULL AND json_valid(payload)
       AND json_type(payload, '$.object_attributes.project_id') = 'integer'
    """,
    """
    UPDATE events SET project_id = (SELECT project_id FROM sightings WHERE id = events.sighting_id)
     WHERE kind = 'vulnerability' AND project_id IS NULL
    """,
)

_TIMES_CAN_BE_TRUE = (
    f"CREATE TEMP TABLE changed AS SELECT id FROM events WHERE {_FALSE_TIME.format('happened_at')}",
    f"""
    UPDATE sightings SET happened_at = seen_at, precision = iif(precision = 'stated', 'received', precision)
     WHERE event_id IN (SELECT id FROM changed) AND (source LIKE 'webhook:%' OR source LIKE 'system_hook:%')
       AND {_FALSE_TIME.format("happened_at")}
    """,
    """
    UPDATE sightings SET happened_at = substr('000' || happened_at, -24)
     WHERE event_id IN (SELECT id FROM changed) AND length(happened_at) BETWEEN 21 AND 23
    """,
    """
    UPDATE events SET happened_at = (SELECT min(happened_at) FROM sightings WHERE event_id = events.id)
     WHERE id IN (SELECT id FROM changed) AND EXISTS (SELECT 1 FROM sightings WHERE event_id = events.id)
    """,
    # Where pruning stopped can't be known any more; but what is kept, and done with, was recorded after it.
    f"""
    UPDATE meta SET value = (
        SELECT coalesce(min(recorded_at), strftime('%Y-%m-%dT%H:%M:%fZ')) FROM events
         WHERE id = (SELECT min(e.id) FROM events e WHERE NOT EXISTS (
             SELECT 1 FROM deliveries d WHERE d.event_id = e.id AND d.state <> 'delivered'))
    ) WHERE name = 'pruned_through' AND {_FALSE_TIME.format("value")}
    """,
    "DROP TABLE changed",
)
"""Years have four digits, and a webhook that states a time that can't be true states none."""

STATEMENTS = (*_FAMILIES_ARE_KINDS, *_VULNERABILITIES_HAVE_PROJECTS, *_TIMES_CAN_BE_TRUE)
