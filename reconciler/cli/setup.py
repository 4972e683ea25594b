"""`setup`: asks five questions, tries each answer, and writes a config that works."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from reconciler.cli.asking import NoAnswer
from reconciler.cli.common import DEFAULT_CONFIG, FAILED, USAGE, err, fail, out
from reconciler.cli.new_files import NewFile, write_all
from reconciler.cli.occupied import keep_databases
from reconciler.cli.sample import filled_in, sample
from reconciler.cli.schema import keep_others, schema_text
from reconciler.cli.setup_answers import Wrong, webhook_token
from reconciler.cli.setup_questions import (
    TOKEN_VARIABLE,
    Given,
    ToCreate,
    Token,
    create,
    which_destination,
    which_gitlab,
    which_projects,
    which_token,
    which_webhooks,
)

LEDGER = "ledger.db"
"""Its name in the sample."""
TOKEN_FILE, WEBHOOK_TOKEN_FILE, SCHEMA = "gitlab-token", "webhook-token", "config.schema.json"


def setup(
    path: Annotated[Path, typer.Argument(help="The config to write.")] = DEFAULT_CONFIG,
    gitlab_url: Annotated[
        str | None, typer.Option("--gitlab-url", metavar="URL", help="URL of the GitLab instance.")
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file",
            metavar="FILE",
            help="File that contains the access token. Without it, `GITLAB_TOKEN` is used if it is set.",
        ),
    ] = None,
    project: Annotated[
        list[str] | None, typer.Option("--project", help="A project to reconcile (ID or path). Repeatable.")
    ] = None,
    destination: Annotated[
        str | None,
        typer.Option(
            "--destination",
            metavar="PLACE",
            help="Where events are delivered: an HTTP URL, a file's path, or `stdout`. Gets a test event.",
        ),
    ] = None,
    allow_private: Annotated[
        bool, typer.Option("--allow-private", help="Allow a destination whose address is not public.")
    ] = False,
    receiver_url: Annotated[
        str | None,
        typer.Option(
            "--receiver-url", metavar="URL", help="URL at which GitLab reaches this service. Can be set later."
        ),
    ] = None,
    create_webhooks: Annotated[
        bool, typer.Option("--create-webhooks", help="Create the webhooks in GitLab, for --receiver-url.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite existing files.")] = False,
) -> None:
    """Ask five questions, try each answer at once, and write a commented config.yaml that works.

    The questions: GitLab's URL, an access token, the projects, where events are delivered, and the URL at which
    GitLab reaches this service. If an answer is wrong, the command says why and asks again. An option answers its
    question: with --gitlab-url, --token-file, --project and --destination nothing is asked, and if one of them is
    wrong, no config is written.

    Tokens are written to files beside the config, which only their owner can read. With --force, a webhook token that
    is already there is kept. Webhooks are created last: if that fails, the files stay, and `hooks ensure` does the
    rest.

    `init` asks nothing: it writes the same config for you to fill in, for example with groups, a broker, or
    PostgreSQL.
    """
    given = Given(
        gitlab_url, token_file, project or [], destination, allow_private, receiver_url, create_webhooks,
        can_ask=sys.stdin.isatty(),
    )  # fmt: skip
    _refuse_early(path, given, force=force)
    try:
        plan = _asked(path, given, force=force)
    except Wrong as error:
        fail(f"{error}. No config was written.", error.code)
    except NoAnswer:
        fail("the question was not answered. No config was written.")
    except KeyboardInterrupt:
        err.print()  # the terminal is still in the line of the question
        fail("interrupted. No config was written.")
    _carry_out(path, plan)


def _refuse_early(path: Path, given: Given, *, force: bool) -> None:
    """Say before the first question what would fail after the last."""
    if path.is_dir():
        fail(f"{path} is a folder: name a file in it, like {path / 'config.yaml'}", USAGE)
    _refuse_unprintable(path)
    if path.name in (TOKEN_FILE, WEBHOOK_TOKEN_FILE, SCHEMA):
        fail(f"{path}: `setup` gives this name to another file: give the config another one", USAGE)
    if given.token_file is not None:
        _refuse_token_file(given.token_file, path)
    keep_databases(path)
    keep_others(path.with_name(SCHEMA))
    if not force:
        for file in (path, path.with_name(WEBHOOK_TOKEN_FILE)):
            _refuse_to_overwrite(file)
    folder = next(one for one in path.resolve().parents if one.exists())
    if not os.access(folder, os.W_OK | os.X_OK):
        fail(f"{path} can't be written: {folder} belongs to another user")
    if given.create_webhooks and given.receiver_url is None:
        fail("--create-webhooks needs --receiver-url: where should GitLab deliver?", USAGE)
    if given.missing and not given.can_ask:
        fail(f"standard input is no terminal, so nothing can be asked: give {', '.join(given.missing)}", USAGE)


def _refuse_unprintable(file: Path) -> None:
    """A config could not name such a file, or not so that a person can read it."""
    for one in (file, file.expanduser().resolve()):
        if not str(one).isprintable():
            fail(f"{one}: has characters that can't be printed, or are not UTF-8: give another name", USAGE)


def _refuse_token_file(file: Path, path: Path) -> None:
    try:
        _refuse_unprintable(file)
        written = [one.resolve() for one in (path, path.with_name(WEBHOOK_TOKEN_FILE), path.with_name(SCHEMA))]
        is_written = file.expanduser().resolve() in written
    except (OSError, RuntimeError, ValueError):  # it can't be read either, which is said then
        return
    if is_written:
        fail(f"--token-file: {file} is a file that `setup` writes: keep GitLab's token in another one", USAGE)


def _refuse_to_overwrite(file: Path) -> None:
    if file.exists():
        fail(f"{file} already exists; use --force to overwrite it", USAGE)


class _Plan(msgspec.Struct, frozen=True):
    """What the answers lead to: files to write, and webhooks to create after that."""

    files: list[NewFile]
    token: Token
    receiver_url: str | None
    to_create: ToCreate | None


def _asked(path: Path, given: Given, *, force: bool) -> _Plan:
    """What to do, by the answers. Neither a file of the service nor GitLab is changed yet.

    Raises Wrong, NoAnswer.
    """
    secret, is_new = webhook_token(path.with_name(WEBHOOK_TOKEN_FILE))
    url = which_gitlab(given)
    token = which_token(given, url)
    if token.typed and not force:
        _refuse_to_overwrite(path.with_name(TOKEN_FILE))
    projects = which_projects(given, token.access)
    own_files = [path, *(path.with_name(one) for one in (TOKEN_FILE, WEBHOOK_TOKEN_FILE, SCHEMA, LEDGER))]
    own_files += [token.file] if token.file is not None else []
    place = which_destination(given, folder=path.resolve().parent, gitlab_url=url, own_files=own_files)
    receiver_url, is_wanted = which_webhooks(given, token.access, projects)
    text = filled_in(
        sample(SCHEMA),
        gitlab_url=url,
        token_file=_token_file(token, path),
        projects=[str(one.path) for one in projects],
        receiver_url=receiver_url,
        webhook_token_file=WEBHOOK_TOKEN_FILE,
        destination=place.lines,
    )
    files = [
        *([NewFile(path.with_name(TOKEN_FILE), f"{token.value}\n")] if token.typed else []),
        NewFile(path.with_name(WEBHOOK_TOKEN_FILE), f"{secret}\n"),
        NewFile(path.with_name(SCHEMA), schema_text(), private=False),
        NewFile(path, text),
    ]
    wanted = ToCreate(projects, receiver_url, secret, is_new) if is_wanted and receiver_url is not None else None
    return _Plan(files, token, receiver_url, wanted)


def _carry_out(path: Path, plan: _Plan) -> None:
    """Write the files, then create the webhooks: what GitLab is given is never lost."""
    *most, last = [str(one.path) for one in reversed(plan.files)]
    names = f"{', '.join(most)} and {last}"
    try:
        write_all(plan.files)
    except OSError as error:
        fail(f"{path} can't be written: {error.strerror}", FAILED)
    except KeyboardInterrupt:
        fail(f"interrupted while {names} were written: run `setup --force` again")
    out.print(f"Wrote {names}.")
    if plan.to_create is not None:
        rest = f"{names} are written: `gitlab-reconciler hooks ensure{_which(path)}` does the rest"
        try:
            create(plan.token.access, plan.to_create)
        except Wrong as error:
            fail(f"{error}. {rest}.", error.code)
        except KeyboardInterrupt:
            fail(f"interrupted before all webhooks were created. {rest}.")
    _print_next(path, plan.token, plan.receiver_url, created=plan.to_create is not None)


def _token_file(token: Token, path: Path) -> str | None:
    """The file of the token, as the config names it; None if it is in the environment."""
    if token.typed:
        return TOKEN_FILE
    if token.file is None:
        return None
    file, folder = token.file.expanduser().resolve(), path.resolve().parent
    return str(file.relative_to(folder) if file.is_relative_to(folder) else file)


def _which(path: Path) -> str:
    """The option that other commands need to find the config."""
    return "" if path == DEFAULT_CONFIG else f" --config {shlex.quote(str(path))}"


def _print_next(path: Path, token: Token, receiver_url: str | None, *, created: bool) -> None:
    which = _which(path)
    steps = [f"gitlab-reconciler check{which}", f"gitlab-reconciler serve{which}"]
    if created:
        steps += [f"have {receiver_url}/webhooks/gitlab/ passed on to 127.0.0.1:8080 (receiver.host, receiver.port)"]
    else:
        first = "" if receiver_url else f"set receiver.url in {path}; "
        steps += [f"{first}in a second terminal: gitlab-reconciler hooks ensure{which}"]
    if not token.typed and token.file is None:
        steps = [f"keep {TOKEN_VARIABLE} set: the config reads the token from it", *steps]
    out.print("Next:")
    for number, step in enumerate(steps, start=1):
        out.print(f"  {number}. {step}")
