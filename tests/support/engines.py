"""Which database the ledgers of the end-to-end tests are in: SQLite, PostgreSQL, or each in turn (`pytest --ledger`).

All other tests choose their database. With `--ledger postgresql` only the end-to-end tests run that have none of
their own.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

END_TO_END = Path(__file__).parents[1] / "e2e"
_LEFT_OUT = pytest.StashKey[Counter[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds `--ledger`."""
    parser.addoption(
        "--ledger", choices=["sqlite", "postgresql", "both"], default="sqlite", help="the ledgers' database"
    )


@pytest.fixture
def engine(request: pytest.FixtureRequest) -> str:
    """The database of the ledgers that `make_service` makes."""
    if not request.path.is_relative_to(END_TO_END):
        return "sqlite"
    return str(getattr(request, "param", chosen(request.config))).replace("both", "sqlite")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """With both, have each end-to-end test run with each, but for those of one database."""
    marks = {one.name for one in metafunc.definition.iter_markers()}
    is_of_both = "engine" in metafunc.fixturenames and not marks & {"sqlite", "postgresql"}
    if chosen(metafunc.config) == "both" and is_of_both and metafunc.definition.path.is_relative_to(END_TO_END):
        metafunc.parametrize("engine", ["sqlite", "postgresql"], indirect=True)


def chosen(config: pytest.Config) -> str:
    """What `--ledger` says."""
    return str(config.getoption("--ledger"))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With PostgreSQL only, leave out all but end-to-end tests, and remember which of these are left out too."""
    kept: list[pytest.Item] = []
    others: list[pytest.Item] = []
    left_out: Counter[str] = Counter()
    for item in items:
        only_sqlite = item.get_closest_marker("sqlite")
        is_kept = chosen(config) != "postgresql" or (_has_engine(item) and only_sqlite is None)
        if only_sqlite is not None and not is_kept:
            left_out[f"{item.path.stem}: {only_sqlite.args[0]}"] += 1
        (kept if is_kept else others).append(item)
    items[:] = kept
    if others:
        config.hook.pytest_deselected(items=others)
    config.stash[_LEFT_OUT] = left_out
    if hasattr(config, "workeroutput"):  # of xdist
        config.workeroutput["left_out"] = dict(left_out)


def _has_engine(item: pytest.Item) -> bool:
    if not item.path.is_relative_to(END_TO_END) or item.get_closest_marker("postgresql") is not None:
        return False
    return "engine" in getattr(item, "fixturenames", ())


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take what a worker of xdist has left out. Each has the same tests."""
    found = getattr(node, "workeroutput", {}).get("left_out")
    if found is not None:
        node.config.stash[_LEFT_OUT] = Counter(found)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Say last in which database the ledgers were, and which tests were left out."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    left_out = config.stash.get(_LEFT_OUT, None)
    if reporter is None or left_out is None:
        return
    if chosen(config) == "postgresql":
        what = "; ".join(f"{why} ({number})" for why, number in sorted(left_out.items()))
        reporter.write_line(f"ledgers in PostgreSQL; left to `make test`: {what or 'none'}")
