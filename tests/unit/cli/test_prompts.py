"""Questions at a terminal: what a no, Ctrl-D and Ctrl-C mean."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from dataclasses import replace

import click
import pytest

from ugro.cli.prompts import answers, confirm, typed
from ugro.common.errors import Declined
from ugro.service.plan import Question

QUESTION = Question(id="go", text="Go?", refusal="no terminal", hint="--yes", untouched="nothing was removed")
OPTIONAL = replace(QUESTION, optional=True)

Typing = Callable[[type[BaseException]], None]


@pytest.fixture
def typing(monkeypatch: pytest.MonkeyPatch) -> Typing:
    """A terminal at which this key is pressed: what Python makes of Ctrl-D or Ctrl-C."""

    def press(key: type[BaseException]) -> None:
        def ask(prompt: str = "") -> str:
            raise key

        monkeypatch.setattr(sys, "stdin", type("Terminal", (io.StringIO,), {"isatty": lambda _: True})())
        for way in ("visible_prompt_func", "hidden_prompt_func"):
            monkeypatch.setattr(click.termui, way, ask)

    return press


@pytest.mark.parametrize("question", [QUESTION, OPTIONAL])
def test_the_end_of_the_input_declines_and_says_what_was_not_done(typing: Typing, question: Question) -> None:
    typing(EOFError)
    with pytest.raises(Declined) as declined:
        answers([question])
    assert declined.value.message == "nothing was confirmed; nothing was removed"
    assert confirm("Edit it again?", default=True) is None
    with pytest.raises(Declined, match="nothing was typed; A was not set"):
        typed("value of A", "A was not set", hidden=True)


def test_ctrl_c_is_no_answer(typing: Typing) -> None:
    typing(KeyboardInterrupt)
    with pytest.raises(click.Abort):
        answers([QUESTION])
    with pytest.raises(click.Abort):
        typed("Reason", "gpu1 was not drained")
