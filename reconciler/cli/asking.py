"""Questions on a terminal. They go to standard error, as all questions do."""

from __future__ import annotations

import contextlib
import sys
import termios
from collections.abc import Iterator

from reconciler.cli.common import err


class NoAnswer(Exception):
    """The input ended before a question was answered."""


def asked(question: str, default: str = "") -> str:
    """The answer to a question, or its default for an empty one.

    Raises NoAnswer.
    """
    err.print(f"{question} [{default}]: " if default else f"{question}: ", end="")
    return _line() or default


def asked_secretly(question: str) -> str:
    """The answer to a question, which is not shown while it is typed.

    Raises NoAnswer.
    """
    with _no_echo():  # before the question is there, so that no key is shown
        err.print(f"{question}: ", end="")
        answer = _line()
    err.print()
    return answer


def confirmed(question: str, *, default: bool) -> bool:
    """Whether a question is answered with yes.

    Raises NoAnswer.
    """
    while True:
        err.print(f"{question} [{'Y/n' if default else 'y/N'}]: ", end="")
        answer = _line().lower()
        if answer in ("", "y", "yes", "n", "no"):
            return answer[:1] == "y" if answer else default


def _line() -> str:
    line = sys.stdin.readline()
    if not line:
        raise NoAnswer
    return line.strip()


@contextlib.contextmanager
def _no_echo() -> Iterator[None]:
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    hidden = [*before]
    hidden[3] &= ~termios.ECHO
    termios.tcsetattr(terminal, termios.TCSADRAIN, hidden)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
