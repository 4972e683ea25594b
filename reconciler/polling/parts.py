"""The reconciling parts put together: for the service, and for `backfill`."""

from __future__ import annotations

import msgspec
from sqlite_utils import Database

from reconciler.config.models import Config
from reconciler.events.hook_tests import Expected
from reconciler.ledger.intake.writer import Writer
from reconciler.polling.hook_monitor import HookKeeper
from reconciler.polling.poller import Poller
from reconciler.polling.projects import Projects
from reconciler.polling.reader import Reader
from reconciler.polling.rounds import Rounds
from reconciler.polling.watchlist import Watchlist
from reconciler.sources.activity import Activity
from reconciler.sources.client import Client
from reconciler.sources.hooks import Hooks
from reconciler.sources.table import make_sources


class Reconciling(msgspec.Struct, frozen=True):
    """Everything that asks GitLab, sharing one client and its rate limit."""

    client: Client
    hooks: Hooks
    projects: Projects
    keeper: HookKeeper
    reader: Reader
    poller: Poller
    rounds: Rounds

    def stop(self) -> None:
        """End all asking; what a thread waits for is given up."""
        self.rounds.stop()
        self.client.stop()
        self.projects.watchlist.stop()


def reconciling(
    config: Config,
    *,
    db: Database,
    writer: Writer,
    expected_tests: set[Expected] | None = None,
    details: bool = True,
) -> Reconciling:
    """Build them. `expected_tests` is shared with the receiver (see HookKeeper), `details` is the Reader's."""
    client = Client(config.gitlab)
    hooks = Hooks(client, config.receiver)
    watchlist = Watchlist(config, probe=Client(config.gitlab, tries=1), writer=writer)
    projects = Projects(config, client=client, writer=writer, watchlist=watchlist)
    keeper = HookKeeper(
        hooks,
        writer=writer,
        reenable=config.reconcile.reenable_hooks,
        expected_tests=set() if expected_tests is None else expected_tests,
    )
    reader = Reader(client=client, writer=writer, concurrency=config.reconcile.concurrency, details=details)
    poller = Poller(
        config.reconcile,
        client=client,
        sources=make_sources(client, hooks),
        projects=projects,
        keeper=keeper,
        reader=reader,
        db=db,
        writer=writer,
    )
    activity = Activity(client)
    rounds = Rounds(config.reconcile, poller=poller, projects=projects, activity=activity, db=db)
    return Reconciling(client, hooks, projects, keeper, reader, poller, rounds)
