"""The `gitlab-reconciler` command. One file a subcommand; exit codes: 0 done, 1 failed, 2 usage or config."""

from reconciler.cli.app import main

__all__ = ["main"]
