"""The parts of docs/ that are made from the code are today's. `make docs` writes them anew."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Set
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from pydantic import BaseModel
from typer.testing import CliRunner

from reconciler.cli.app import command_line
from reconciler.config.destination_kinds import BUILT_IN, find_kind
from reconciler.config.destinations import Destination
from reconciler.config.load import load
from reconciler.config.models import Config
from reconciler.events.kinds import MIRRORED, UNMIRRORED
from reconciler.events.moments import HOW
from reconciler.events.webhooks import WEBHOOKS
from reconciler.metrics import PREFIX
from reconciler.metrics.meters import Meters
from reconciler.service.receiver_counts import ReceiverCounts
from reconciler.sources.source import FOREVER
from reconciler.sources.table import SOURCES
from tests.support.made import check_made

DAYS = {7: "7 days", 3 * 365: "3 years"}


def test_recovery_shows_the_table_of_sources() -> None:
    rows = ["| source | asks | kept by GitLab | can rebuild | can't |", "|---|---|---|---|---|"]
    for entry in SOURCES:
        kept = "until deleted" if entry.keeps_for == FOREVER else DAYS[entry.keeps_for // 86_400_000]
        rows.append(f"| `{entry.name}` | {entry.asks} | {kept} | {entry.rebuilds} | {entry.loses} |")
    check_made("recovery.md", rows)


ROOT = Path(__file__).parents[1]
PLUGIN = Path(__file__).parent / "example_plugin"


def keys(model: type[BaseModel], *, but: Set[str] = frozenset(), before: str = "") -> list[str]:
    """A row for each key of a section, and of the sections in it."""
    rows = []
    for name, field in model.model_fields.items():
        if name in but:
            continue
        inner = section(field.annotation)
        if inner is not None and name != "tls":
            rows += keys(inner, before=f"{before}{name}.")
            continue
        default = (
            "" if field.is_required() or field.default is None or field.default_factory else shown(field.default)
        )
        what = (field.description or "").replace("|", "\\|")
        rows.append(f"| `{before}{name}` | {default} | {what}{' Required.' if field.is_required() else ''} |")
        if name == "tls":
            rows += keys(find_kind("http").config.model_fields["tls"].annotation.__args__[0], before="tls.")
    return rows


def section(annotation: Any) -> type[BaseModel] | None:
    """The section that a key holds, if it holds one."""
    for one in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(one, type) and issubclass(one, BaseModel):
            return one
    return None


def shown(default: Any) -> str:
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{default}`" if default != "" else ""


TABLE = ["| key | default | what |", "|---|---|---|"]


def test_destinations_show_the_keys_of_all_kinds() -> None:
    check_made("destinations/README.md", TABLE + keys(Destination))


@pytest.mark.parametrize("kind", sorted(set(BUILT_IN) - {"pull", "stdout"}))
def test_each_kind_s_page_shows_its_keys(kind: str) -> None:
    common = set(Destination.model_fields) - ({"format"} if kind == "file" else set())
    check_made(f"destinations/{kind}.md", TABLE + keys(find_kind(kind).config, but=common | {"kind"}))


def test_the_example_of_an_own_kind_is_the_tested_one() -> None:
    lines = []
    for name, language in (("pyproject.toml", "toml"), ("example_destination/__init__.py", "python")):
        text = (PLUGIN / name).read_text(encoding="utf-8").rstrip()
        lines += [f'```{language} title="{name}"', *text.splitlines(), "```", ""]
    check_made("destinations/your-own.md", lines[:-1])


def test_the_config_s_page_shows_every_key() -> None:
    check_made("config.md", TABLE + keys(Config, but={"destinations"}))


def test_the_page_of_kinds_shows_where_each_says_what() -> None:
    columns = ("kind", "GitLab's page", "actions", "project", "author", "object", "title", "when")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for one in WEBHOOKS:
        project = [*one.project_id, *one.project_path, *([one.project_url] if one.project_url else [])]
        about = [f"{path}` ({name})`" for name, path in one.object]
        cells = [one.kind, one.gitlab_name, listed(one.actions), listed(project), listed(one.author)]
        title = "a push's last commit" if one.kind in ("push", "tag_push") else listed(one.title)
        cells += [listed(about).replace("``", ""), title, when(one.kind)]
        lines.append(f"| {' | '.join(cells)} |".replace(f"| {one.kind} |", f"| `{one.kind}` |"))
    check_made("kinds.md", lines)


def listed(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def when(kind: str) -> str:
    """Where a kind's bodies say when it happened, and for which actions where that differs."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for row in MIRRORED:
        if row.kind == kind:
            rows.setdefault(row.time, []).extend(action for action in row.actions if action)
    for (name, action), other in UNMIRRORED.items():
        if name == kind:
            rows.setdefault(other.time, []).append(action or "")
    if len(rows) == 1 or all(actions == [] for actions in rows.values()):
        return _moment(next(iter(rows)))
    return "; ".join(f"{_moment(time)}: {_named(actions)}" for time, actions in rows.items())


def _named(actions: list[str]) -> str:
    names = [f"`{action}`" for action in actions if action]
    return ", ".join([*names, *(["else"] if "" in actions else [])])


def _moment(paths: tuple[str, ...]) -> str:
    return listed(paths) or "receipt"


def test_the_commands_page_shows_every_command() -> None:
    lines = []
    command = typer.main.get_command(command_line())
    context = typer.Context(command, info_name="gitlab-reconciler")
    for path, one in sorted(_commands(command, [])):
        inner = typer.Context(one, info_name=" ".join(path), parent=context)
        lines += [f"## {' '.join(path)}", "", *_shown(one, inner)]
    check_made("commands.md", lines[:-1])


def _commands(group: Any, path: list[str]) -> list[tuple[list[str], Any]]:
    found = list[tuple[list[str], Any]]()
    for name in group.commands:
        one = group.get_command(typer.Context(group), name)
        inner = [*path, name]
        found += _commands(one, inner) if hasattr(one, "commands") else [(inner, one)]
    return found


def _shown(command: Any, context: Any) -> list[str]:
    lines = [*(line.strip() for line in (command.help or "").strip().splitlines()), ""]
    rows = []
    for one in command.get_params(context):
        if one.name == "help" or getattr(one, "hidden", False):
            continue
        name = (
            " ".join([", ".join(one.opts), one.metavar]).strip() if one.param_type_name == "option" else one.metavar
        )
        name += "…" if one.nargs == -1 else ""
        plain = not one.required and not isinstance(one.default, bool) and one.default not in (None, ())
        default = f"`{one.default}`" if plain else "required" if one.required else ""
        what = (one.help or "").replace(f": {HOW}", "")
        rows.append(f"| {_cell(f'`{name}`')} | {default} | {_cell(what)} |")
    return [*lines, "| | default | |", "|---|---|---|", *rows, ""] if rows else lines


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


@pytest.mark.parametrize("path", ["", "serve", "events list", "destinations skip", "intake retry", "hooks resend"])
def test_help_calls_values_by_name_and_not_by_their_type(path: str) -> None:
    done = CliRunner(env={"COLUMNS": "200"}).invoke(command_line(), [*path.split(), "--help"], prog_name="reconciler")
    assert (done.exit_code, "Usage: reconciler" in done.output) == (0, True), done.output
    assert re.findall(r"<\w+|int range|EventId|\{[a-z]|list\[", done.output) == []


def test_the_metrics_page_shows_every_metric() -> None:
    meters = Meters()
    rows = ["| metric | type | what |", "|---|---|---|"]
    families = [(f.name, f.type, f.documentation) for f in [*meters.registry.collect(), *ReceiverCounts().collect()]]
    text = (ROOT / "reconciler" / "metrics" / "collectors.py").read_text()
    pattern = r'(gauge|(?:Gauge|Counter|Info)MetricFamily)\(\s*(?:PREFIX \+ )?"(\w+)",\s*"([^"]+)"'
    found = re.findall(pattern, text)
    families += [(PREFIX + name, kind.removesuffix("MetricFamily").lower(), what) for kind, name, what in found]
    endings = {"counter": "_total", "info": "_info"}  # as Prometheus shows them
    for name, kind, what in sorted(set(families)):
        rows.append(f"| `{name}{endings.get(kind, '')}` | {kind} | {what} |")
    check_made("metrics.md", rows)


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environ = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environ)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "site" / "destinations" / "nats" / "index.html").exists()


PAGES = sorted(page for page in (ROOT / "docs").rglob("*.md"))
FENCE = re.compile(r"^( *)```yaml\n(.*?)^ *```", re.S | re.M)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT / "docs")))
def test_every_piece_of_config_in_docs_is_valid(page: Path, tmp_path: Path) -> None:
    """Whole configs, sections of one, and pieces of a destination, each in its place."""
    for indent, text in FENCE.findall(page.read_text(encoding="utf-8")):
        piece = yaml.safe_load("\n".join(line.removeprefix(indent) for line in text.splitlines()))
        if not set(piece) <= set(Config.model_fields):
            piece = {"destinations": [{"name": "d", "url": "https://x.example", **piece}]}
        whole = {"receiver": {"hooks": [{"token": "t"}]}} | piece
        for one in whole.get("destinations", []):
            if one.get("kind") == "folder":  # the example package's, which is not installed here
                one |= {"kind": "file"}
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(whole))
        names = re.findall(r"\$\{(\w+)\}", text)
        load(tmp_path / "config.yaml", dict.fromkeys(names, "whsec_c2VjcmV0"))


CITATION = re.compile(r"docs/gitlab\.md(?:, \"([^\"]+)\")?")
CODE = sorted(file for folder in ("receiver", "reconciler", "tests") for file in (ROOT / folder).rglob("*.py"))


def test_every_citation_of_gitlab_md_names_a_section() -> None:
    """The code cites facts about GitLab as `docs/gitlab.md, "<heading>"`. The heading must exist."""
    headings = set(re.findall(r"^##+ (.+)$", (ROOT / "docs" / "gitlab.md").read_text(encoding="utf-8"), re.M))
    cited = [
        (str(file.relative_to(ROOT)), heading)
        for file in CODE
        if file != Path(__file__)
        for heading in CITATION.findall(re.sub(r"\s+(# )?", " ", file.read_text(encoding="utf-8")))
    ]
    assert len({file for file, _ in cited}) >= 10
    assert [one for one in cited if one[1] not in headings] == []


def test_the_readme_links_every_page() -> None:
    pages = {
        str(page.relative_to(ROOT)) for folder in ("docs", "docs/guides") for page in (ROOT / folder).glob("*.md")
    }
    linked = set(re.findall(r"\]\(([^)#]+)", (ROOT / "README.md").read_text(encoding="utf-8")))
    assert pages - linked == {"docs/index.md"}
