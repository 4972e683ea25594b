"""In PostgreSQL too, what the service and the dashboard ask often is found by an index, in a ledger of any size."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from reconciler.events import times
from reconciler.events.times import DAY, HOUR, Millis
from reconciler.ledger import alerts
from reconciler.ledger.coverage import hooks, intervals, source_state, unreadable, watched
from reconciler.ledger.coverage.watched import Name
from reconciler.ledger.queue import known
from reconciler.ledger.storage.connection import connect, transaction
from reconciler.ledger.upkeep import prune
from reconciler.ledger.views import browse, dead_letters, listing, overview, search, status, traffic
from reconciler.ledger.views.browse import Filter
from reconciler.ledger.views.news import news
from reconciler.ledger.views.unknowns import SOURCES
from tests.reconciler.ledger.test_query_plans import Watched
from tests.support.ledgers import ledger_location

pytestmark = pytest.mark.postgresql

NOW = times.from_iso("2026-11-25T12:00:00.000Z")
EVENTS = 20_000
FILL = f"""
    CREATE FUNCTION at(n bigint) RETURNS text LANGUAGE sql AS
    $$ SELECT to_char(timestamp '2026-11-25 12:00' - n * interval '1 minute', 'YYYY-MM-DD"T"HH24:MI:SS".000Z"') $$;
    INSERT INTO projects (id, path, last_webhook_at) SELECT n, 'group/' || n, at(n) FROM generate_series(1, 3000) n;
    INSERT INTO events (id, kind, project_id, happened_at, recorded_at, sighting_id)
    SELECT n, CASE WHEN n % 1000 = 0 THEN 'release' ELSE 'note' END, n % 100, at({EVENTS} - n), at({EVENTS} - n), n
      FROM generate_series(1, {EVENTS}) n;
    INSERT INTO sightings (id, event_id, source, source_id, key, happened_at, precision, seen_at, kind, action,
                           project_id, payload_sha, headers, payload)
    SELECT id, id, 'webhook:default', id, 'note:' || id, happened_at, 'gitlab_time', recorded_at, kind, 'open',
           project_id, id, '{{}}', repeat('x', 1000) FROM events;
    INSERT INTO search (event_id, document)
    SELECT id, format('''kind:%s'':1 ''object:issue/%s'':1', kind, id)::tsvector FROM events
     WHERE id <= {EVENTS} - 10;
    INSERT INTO destinations (id, name, ordering, active)
    SELECT n, 'to ' || n, 'none', 1 FROM generate_series(1, 3) n;
    SET session_replication_role = replica;
    INSERT INTO deliveries (event_id, destination_id, state, lane, opened_at, next_attempt_at, last_error)
    SELECT n, d, CASE WHEN n % 400 = 0 THEN 'dead' WHEN n % 401 = 0 THEN 'retrying' WHEN n % 50 = 1 THEN 'pending'
                 ELSE 'delivered' END, 'lane ' || n, at({EVENTS} - n), at({EVENTS} - n), 'no'
      FROM generate_series(1, {EVENTS}) n, generate_series(1, 3) d;
    SET session_replication_role = origin;
    INSERT INTO attempts (event_id, destination_id, number, started_at, duration_ms, error_class)
    SELECT event_id, destination_id, 1, opened_at, 5, CASE WHEN state = 'dead' THEN 'http_4xx' END FROM deliveries;
    INSERT INTO runs (project_id, source, purpose, window_from, window_through, started_at, finished_at, seen, known,
                      new, requests)
    SELECT n % 3000, 'issues', 'poll', at(n), at(n), at(n), at(n), 1, 1, 1, 1 FROM generate_series(1, 20000) n;
    INSERT INTO sources (project_id, source, watched_since, last_read_at, trouble)
    SELECT n, s, at(1000), at(1), CASE WHEN n % 100 = 0 THEN 'refused' END
      FROM generate_series(1, 3000) n, unnest(ARRAY['issues', 'releases', 'pipelines', 'project_events']) s;
    INSERT INTO coverage SELECT project_id, source, at(1000), at(1) FROM sources;
    INSERT INTO hooks (project_id, hook_id, name, url, triggers, checked_at)
    SELECT n, n, 'default', 'u', '[]', at(1) FROM generate_series(1, 3000) n;
    INSERT INTO watched (kind, name, below, project_id, since)
    SELECT 'member', n::text, 'team', n, at(1) FROM generate_series(1, 3000) n;
    INSERT INTO unreadable SELECT n, 'issues', n::text, 'bad', '{{}}', at(n), at(n) FROM generate_series(1, 5000) n;
    ANALYZE
"""
KEEP = prune.Keep(Millis(365 * DAY), Millis(365 * DAY), Millis(365 * DAY), Millis(365 * DAY))
RECENT = Millis(NOW - 3 * HOUR)


def prune_step(db: Any) -> None:
    pruning = prune.Pruning(KEEP, now=NOW)
    while not pruning.step(db):
        pass


def some(db: Any, words: str = "", **wanted: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listing, "EVENTS_LOOKED_AT", 500)  # of a ledger that has many more
        listing.listed(db, Filter(**wanted), words, limit=50, before=None)


ASKED: dict[str, tuple[Callable[[Any], Any], set[str]]] = {
    "events": (lambda db: browse.newest(db, Filter(), limit=50), {"events_pkey", "sightings_pkey"}),
    "events, older": (lambda db: browse.newest(db, Filter(), limit=50, before=900), {"events_pkey"}),
    "events of a project": (lambda db: browse.newest(db, Filter(project=7), limit=50), {"events_by_project"}),
    "events of a path": (lambda db: browse.newest(db, Filter(project="group/7"), limit=50), {"events_by_project"}),
    "events of a kind": (lambda db: browse.newest(db, Filter(kind="release"), limit=50), {"events_by_kind"}),
    "events of a time": (lambda db: browse.newest(db, Filter(until=RECENT), limit=50), {"events_by_time"}),
    "events of a source": (lambda db: browse.newest(db, Filter(source="webhook"), limit=50), {"sightings_by_event"}),
    "list: of a source": (lambda db: some(db, source="pipelines"), {"events_pkey", "sightings_by_event"}),
    "list: dead": (lambda db: some(db, delivery="dead", author="ada"), {"search_words"}),
    "list: dead letters": (lambda db: some(db, delivery="dead", destination="to 1"), {"deliveries_dead"}),
    "list: pending": (lambda db: some(db, delivery="pending"), {"deliveries_open"}),
    "list: of a destination": (lambda db: some(db, destination="to 1", project=7), {"events_by_project"}),
    "list: of a time": (lambda db: some(db, source="pipelines", since=RECENT), {"events_by_time"}),
    "list: with words": (lambda db: some(db, "kind:note", source="pipelines"), {"sightings_by_event"}),
    "states of deliveries": (lambda db: browse.delivery_states(db, range(900, 950)), {"deliveries_pkey"}),
    "new events": (lambda db: browse.after(db, Filter(), event_id=EVENTS - 9), {"events_pkey"}),
    "news": (lambda db: news(db, Filter(), None, after=EVENTS - 900), {"events_pkey"}),
    "news of a project": (lambda db: news(db, Filter(project=7), None, after=EVENTS - 900), {"sightings_pkey"}),
    "news with a word": (lambda db: news(db, Filter(), "kind:rel", after=EVENTS - 900), {"search_pkey"}),
    "an event": (lambda db: browse.show(db, 900), {"events_pkey", "sightings_by_event", "deliveries_pkey"}),
    "its attempts": (lambda db: dead_letters.attempts(db, 900), {"attempts_by_event"}),
    "dead letters": (lambda db: dead_letters.dead_letters(db, Filter(), destination="to 1", limit=50),
                     {"deliveries_dead"}),
    "dead letters of an event": (lambda db: dead_letters.dead_letters_of(db, 400), {"events_pkey"}),
    "a rare word": (lambda db: search.find(db, "#4711", before=EVENTS, limit=50), {"search_words"}),
    "a rare beginning": (lambda db: search.find(db, "kind:rel", before=EVENTS, limit=50), {"search_words"}),
    "a word anywhere": (lambda db: search.find(db, "rele", before=EVENTS, limit=50), {"search_words"}),
    "whether a kind was heard of": (lambda db: known.heard(db, ["unheard"]), {"search_words"}),
    "a frequent word": (lambda db: search.find(db, "kind:note", before=EVENTS, limit=50), {"search_pkey"}),
    "indexing": (search.index_step, {"search_pkey", "events_pkey"}),
    "hours": (lambda db: overview.hours(db, since=RECENT), {"events_by_time", "sightings_pkey"}),
    "attempts": (overview.records, {"attempts_pkey"}),
    "attempts of a destination": (lambda db: traffic.traffic(db, 2, since=RECENT),
                                  {"attempts_by_destination", "attempts_pkey"}),
    "runs": (lambda db: overview.runs(db, before=9000, limit=50), {"runs_pkey"}),
    "backlog": (lambda db: db.execute(status.BACKLOG, (1,)), {"deliveries_open"}),
    "how many dead letters": (lambda db: db.execute(status.DEAD_LETTERS, (1,)), {"deliveries_dead"}),
    "dead letters for alerts": (lambda db: db.execute(alerts.DEAD_LETTERS, (1,)), {"deliveries_dead"}),
    "last error": (lambda db: db.execute(status.LAST_ERROR, (1,)), {"deliveries_retrying"}),
    "last dead error": (lambda db: db.execute(status.LAST_DEAD_ERROR, (1,)), {"deliveries_dead"}),
    "what is not read": (lambda db: db.execute(SOURCES), {"sources_unread"}),
    "coverage": (lambda db: intervals.covered(db, 7, "issues"), {"coverage_pkey"}),
    "sources": (lambda db: source_state.watched_sources(db, 7), {"sources_pkey"}),
    "a source was read": (lambda db: source_state.note_read(db, 7, "issues", NOW), {"sources_pkey"}),
    "a source has trouble": (lambda db: source_state.note_trouble(db, 7, "issues", "t", "e", NOW), {"sources_pkey"}),
    "a name was read": (lambda db: watched.note_read(db, Name("project", "7"), NOW), {"watched_pkey"}),
    "hooks": (lambda db: hooks.project_hooks(db, 7), {"hooks_pkey"}),
    "unreadable": (unreadable.unreadable, {"unreadable_by_time"}),
    "understood": (lambda db: unreadable.clear(db, 7, "issues", ["1", "2"]), {"unreadable_pkey"}),
    "pruning": (prune_step, {"events_pkey", "attempts_pkey", "runs_pkey", "unreadable_by_time"}),
}  # fmt: skip
SMALL = {"projects", "watched", "destinations", "alerts", "meta", "former_paths", "downtimes"}


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder: Path = tmp_path_factory.mktemp("plans")
    with ledger_location("postgresql", folder, fresh=True) as location, closing(connect(location)) as db:
        db.execute(FILL)
        yield db


def steps(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", []):
        yield from steps(below)


@pytest.mark.parametrize("what", ASKED)
def test_it_is_found_by_an_index(db: Any, what: str) -> None:
    ask, wanted = ASKED[what]
    with transaction(db):
        db.conn = asked = Watched(db.conn)
        try:
            ask(db)
        finally:
            db.conn = asked._conn
        statements = [one for one in asked.asked if one[0].split()[0] in ("SELECT", "WITH", "UPDATE", "DELETE")]
        plans = [db.conn.execute("EXPLAIN (FORMAT JSON) " + sql, values) for sql, values in statements]
        found = [step for plan in plans for step in steps(plan.fetchone()[0][0]["Plan"])]
    scanned = {step["Relation Name"] for step in found if step["Node Type"] == "Seq Scan"} - SMALL
    assert scanned == set(), json.dumps(found, indent=1)
    assert wanted <= {step.get("Index Name") for step in found}, json.dumps(found, indent=1)
