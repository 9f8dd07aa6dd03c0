"""Asks the user the questions of a plan."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping

import click

from ugro.cli.output import print_hanging
from ugro.common.errors import Declined, InputError
from ugro.service.plan import Question


def answers(
    questions: Iterable[Question], given: Mapping[str, bool] | None = None, ask: bool = True
) -> dict[str, bool]:
    """Return the answer to each question; those `given` by options are not asked.

    The answer to an optional one is no where asking is not possible.

    Raises:
        InputError: stdin is not a terminal, or `ask` forbids it. Declined: the answer to one that the plan needs is no,
            or the input ended at a question (Ctrl-D).
    """
    found = dict[str, bool]()
    for question in questions:
        if question.optional and not (given and question.id in given) and not (ask and sys.stdin.isatty()):
            found[question.id] = False
            continue
        for fact in question.facts if ask else ():
            words = fact.lstrip(" ")
            print_hanging(" " * (len(fact) - len(words)), words, err=True)
        if given and question.id in given:
            found[question.id] = given[question.id]
            continue
        if not (ask and sys.stdin.isatty()):
            raise InputError(question.refusal, question.hint)
        said = confirm(question.text, question.default)
        if said is None:
            raise Declined(f"nothing was confirmed; {question.untouched}")
        if not (said or question.optional):
            raise Declined(question.untouched)
        found[question.id] = said
    return found


def confirm(question: str, default: bool = False) -> bool | None:
    """Ask on stderr; None: the input ended (Ctrl-D).

    Raises:
        click.Abort: Ctrl-C.
    """
    try:
        with _interruptible():
            return click.confirm(question, default=default, err=True)
    except EOFError:
        return None


def typed(prompt: str, untouched: str, hidden: bool = False) -> str:
    """Ask on stderr for a text.

    Raises:
        click.Abort: Ctrl-C. Declined: the input ended (Ctrl-D); `untouched` says what was not done.
    """
    try:
        with _interruptible():
            return str(click.prompt(prompt, hide_input=hidden, err=True))
    except EOFError:
        raise Declined(f"nothing was typed; {untouched}") from None


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C end a question also inside a coroutine, where asyncio would only take note of it.

    Raises:
        click.Abort: Ctrl-C. EOFError: the input ended. Click has one error for both.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    except click.Abort as error:
        if not isinstance(error.__context__, EOFError):
            raise
        click.echo(err=True)  # the terminal is still behind the question
        raise EOFError from None
    finally:
        signal.signal(signal.SIGINT, before)
