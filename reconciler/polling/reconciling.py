"""Builds everything that reads from GitLab, for the service and for commands."""

from __future__ import annotations

import msgspec

from reconciler.config.models import Config
from reconciler.events.hook_tests import ExpectedTests
from reconciler.ledger.ledger import Ledger
from reconciler.polling.hook_monitor import HookMonitor
from reconciler.polling.poller import Poller
from reconciler.polling.projects import Projects
from reconciler.polling.schedule import Schedule
from reconciler.polling.watchlist import Watchlist
from reconciler.polling.window_reader import WindowReader
from reconciler.sources.activity import Activity
from reconciler.sources.client import Client
from reconciler.sources.hooks import Hooks
from reconciler.sources.table import make_sources


class Reconciling(msgspec.Struct, frozen=True):
    """Everything that reads from GitLab, with one client and its rate limit."""

    client: Client
    hooks: Hooks
    projects: Projects
    monitor: HookMonitor
    reader: WindowReader
    poller: Poller
    schedule: Schedule

    def stop(self) -> None:
        """Stop all requests. What a thread waits for is given up."""
        self.schedule.stop()
        self.client.stop()
        self.projects.watchlist.stop()


def reconciling(
    config: Config,
    *,
    ledger: Ledger,
    expected_tests: ExpectedTests | None = None,
    details: bool = True,
) -> Reconciling:
    """Build them. `expected_tests` is shared with the recorder (see HookMonitor); for `details` see WindowReader."""
    client = Client(config.gitlab)
    hooks = Hooks(client, config.receiver)
    watchlist = Watchlist(config, probe=Client(config.gitlab, tries=1), ledger=ledger)
    projects = Projects(config, client=client, ledger=ledger, watchlist=watchlist)
    monitor = HookMonitor(
        hooks,
        ledger=ledger,
        reenable=config.reconcile.reenable_hooks,
        expected_tests=ExpectedTests() if expected_tests is None else expected_tests,
    )
    reader = WindowReader(client=client, ledger=ledger, concurrency=config.reconcile.concurrency, details=details)
    poller = Poller(
        config.reconcile,
        client=client,
        sources=make_sources(client, hooks),
        projects=projects,
        monitor=monitor,
        reader=reader,
        ledger=ledger,
    )
    activity = Activity(client)
    schedule = Schedule(config.reconcile, poller=poller, projects=projects, activity=activity, ledger=ledger)
    return Reconciling(client, hooks, projects, monitor, reader, poller, schedule)
