"""Asks a person the questions of a plan."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterable, Mapping

import click

from ugro.cli.output import print_hanging
from ugro.common.errors import Declined, InputError
from ugro.service.plan import Question


def answers(
    questions: Iterable[Question], given: Mapping[str, bool] | None = None, ask: bool = True
) -> dict[str, bool]:
    """Return the answer to each question; those `given` by options are not asked.

    An optional one is answered with no where nobody can be asked.

    Raises:
        InputError: stdin is not a terminal, or `ask` forbids it. Declined: the answer to one that the plan needs is no.
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
        found[question.id] = confirm(question.text, question.default)
        if not (found[question.id] or question.optional):
            raise Declined(question.untouched)
    return found


def confirm(question: str, default: bool = False) -> bool:
    """Ask on stderr. Ctrl-C ends the question also inside a coroutine, where asyncio would only take note of it.

    Raises:
        click.Abort: Ctrl-C, or the end of the input.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return click.confirm(question, default=default, err=True)
    finally:
        signal.signal(signal.SIGINT, before)
