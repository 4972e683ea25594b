"""How commands fail: with a message on stderr, which is JSON if --json was given."""

from __future__ import annotations

import re
import sqlite3
import sys
from typing import Any

import msgspec
import typer

from reconciler.cli.common import FAILED, USAGE, Failed, json_text, say
from reconciler.cli.output import OutputFailed, discard_pending
from reconciler.config.mistakes import ConfigError, Mistake
from reconciler.events.texts import safe_json, without_credentials
from reconciler.ledger.errors import LedgerError, LedgerVersion
from reconciler.service.errors import ServiceError
from reconciler.sources.errors import SourceError

# Typer brings Click along, some versions of it as a part of their own: what BadParameter is made of is there in all.
_ClickException: Any = typer.BadParameter.__mro__[2]

_PYDANTIC = re.compile(r"(?<=: )(Value error|Assertion failed), ")
"""What pydantic, by which some versions of typer check values, puts before a message."""


def ending(app: typer.Typer, *, prog_name: str) -> int:
    """Run a command line and return its exit code. A user's mistake gives a message, not a traceback."""
    try:
        return int(app(prog_name=prog_name, standalone_mode=False) or 0)
    except Failed as error:
        return _tell(str(error), error.code)
    except ConfigError as error:
        return _tell(str(error), USAGE, mistakes=[_plain(one) for one in error.mistakes])
    except LedgerVersion as error:
        return _tell(str(error), USAGE)
    except (ServiceError, LedgerError, SourceError) as error:
        return _tell(str(error), FAILED)
    except sqlite3.Error as error:
        # It is already loaded if it was raised.
        from reconciler.ledger.storage.connection import explain, is_trouble

        if not is_trouble(error):
            raise
        return _tell(f"the ledger can't be used: {explain(error)}", FAILED)
    except typer.Abort:
        return _tell("nothing was changed: the question was not answered (use --yes to skip it)", FAILED)
    except KeyboardInterrupt:
        return _tell("interrupted", FAILED)
    except OutputFailed as error:
        discard_pending()
        return _tell(str(error), FAILED)
    except _ClickException as error:
        return _usage(error)


def _usage(error: Any) -> int:
    """An invalid command line: what is wrong with it, and where its options are listed."""
    words = _PYDANTIC.sub("", error.format_message().strip())
    context = getattr(error, "ctx", None)
    if words and context is not None:
        words += f"\nSee `{context.command_path} --help`"
    return _tell(words, error.exit_code) if words else int(error.exit_code)  # help was shown instead


def _plain(mistake: Mistake) -> dict[str, Any]:
    return msgspec.structs.asdict(mistake) | {"what": without_credentials(mistake.what)}


def _tell(words: str, code: int, **more: Any) -> int:
    if "--json" in sys.argv[1:]:
        made = {"error": without_credentials(words), "exit_code": code, **more}
        sys.stderr.write(safe_json(json_text(made)) + "\n")
    else:
        say(words)
    return code
