"""`init`: writes a config file to start from."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Annotated

import typer

from reconciler.cli.common import DEFAULT_CONFIG, USAGE, fail, out
from reconciler.cli.occupied import keep_databases
from reconciler.cli.sample import SAMPLE_TOKEN, sample
from reconciler.cli.schema import keep_others, schema_text


def init(
    path: Annotated[Path, typer.Argument(help="Where to write it.")] = Path("config.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Write a commented config.yaml with a random webhook token, and its JSON Schema for editors.

    You fill in the rest. `setup` asks for it instead, and tries each answer.
    """
    if path.is_dir():
        fail(f"{path} is a folder: name a file in it, like {path / 'config.yaml'}", USAGE)
    if path.exists() and not force:
        fail(f"{path} already exists; use --force to overwrite it", USAGE)
    schema_path = path.with_name("config.schema.json")
    if path.name == schema_path.name:
        fail(f"{path}: the config's schema gets this name: give the config another one", USAGE)
    keep_databases(path)
    keep_others(schema_path)
    text = sample(schema_path.name).replace(f":-{SAMPLE_TOKEN}", f":-{secrets.token_urlsafe(24)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.chmod(0o600)  # one that was there and is written over may be anybody's to read
        path.write_text(text, encoding="utf-8")
        schema_path.write_text(schema_text(), encoding="utf-8")
    except OSError as error:
        fail(f"{path}: can't be written: {error.strerror}")
    out.print(f"Wrote {path} and {schema_path}.")
    out.print("Next:")
    out.print("  1. set gitlab.url, projects, receiver.url, destinations, and GITLAB_TOKEN (scope api, or read_api)")
    which = "" if path == DEFAULT_CONFIG else f" --config {path}"
    out.print(f"  2. gitlab-reconciler check{which}")
    out.print(f"  3. gitlab-reconciler serve{which}")
    out.print(f"  4. in a second terminal: gitlab-reconciler hooks ensure{which}")
