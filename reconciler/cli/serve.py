"""`serve`: runs the service."""

from __future__ import annotations

import faulthandler
from pathlib import Path
from typing import Annotated, Literal, get_args

import structlog
import typer

from reconciler import logs
from reconciler.cli.common import DEFAULT_CONFIG, ConfigOption, read_config
from reconciler.cli.weak_secrets import weaknesses
from reconciler.config.load import load
from reconciler.config.models import Config
from reconciler.service import processes, receiving, worker
from reconciler.service.role import Role

log = structlog.get_logger(__name__)

Only = Literal["receiver", "worker"]
Level = Literal["debug", "info", "warning", "error"]


def serve(
    config: ConfigOption = DEFAULT_CONFIG,
    log_level: Annotated[
        Level, typer.Option(help="Lowest level to log.", metavar="|".join(get_args(Level)))
    ] = "info",
    only: Annotated[
        Only | None,
        typer.Option(
            help="Run one part alone: the receiver, or the worker, which does everything else.",
            metavar="|".join(get_args(Only)),
        ),
    ] = None,
) -> None:
    """Run the service: receive webhooks, recover missed events from GitLab, and deliver every event.

    Runs until SIGTERM or Ctrl-C, then finishes what is in flight. SIGHUP or `reload` reads the config again. Logs go
    to stderr: readable on a terminal, JSON otherwise.
    """
    loaded = read_config(config)
    logs.set_up(log_level)
    faulthandler.enable()  # a crash of a library in C says where
    for hook in loaded.receiver.hooks:
        for weakness in weaknesses(hook):
            log.warning("anyone could post events", hook=hook.name, reason=weakness)
    if only is not None:
        _run(Role(only), loaded, config)
        return
    split = processes.split(loaded, lambda: load(config))
    if isinstance(split, int):
        raise typer.Exit(split)
    _run(*split, config)


def _run(role: Role, config: Config, file: Path) -> None:
    serve_role = receiving.serve if role.name == processes.RECEIVER else worker.serve
    serve_role(config, lambda: load(file), role)
