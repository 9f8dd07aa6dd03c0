"""Tests of shapes: a line of a known shape is read as it would be without, whatever its numbers are."""

from __future__ import annotations

import random
import re

import pytest

from tests.unit.control_plane.training_metrics.test_line_reader import LINES
from ugro.common.models.metrics import Reading
from ugro.control_plane.training_metrics import shapes
from ugro.control_plane.training_metrics.line_reader import LineReader

MORE = (
    "epoch=3 step=400 loss=0.52 lr=1e-4",
    "step 12/100 | loss -0.5 | lr 3.0e-04 | tokens/s 12,345 | mem 5k",
    "iter 10: loss 3.1234, time 123.45ms, mfu -100.00%",
    "step: 7 losses=[7,034] loss=1.5,456 lr=[0.1,0.2]",
    "step 5 loss 5. acc 5.e-5 val_loss 0.5.e-5",
    "[12] Train Epoch: 1 [640/60000 (1%)]\tLoss: 0.25",
    "global step=10, loss: tensor(2.31, device='cuda:0') top-5 acc 51.2 x=5 s",
    "12: epoch 4/10 - train loss 2.9 - val loss 3.0 iter -5 epoch: -1 +3 loss=+2.5",
    "test step 5 of 9 loss 1.0 2025-06-04 08:51:58,557 layer/12/norm: 3 layer/13/norm: 4",
)
NUMBERS = (
    "0", "7", "42", "123", "1234", "12345", "1234567", "1234567890123", "0.5", "-0.5", "+1.25", "12.", ".5", "1e-05",
    "1.E-05", "3.0e-04", "7,034", "12,345", "1,234,567", "12,34", "nan", "inf", "-inf", "5k", "1.5M", "1/2", "1.2.3",
    "1e5x", "0" * 30,
)  # fmt: skip


def all_lines() -> list[str]:
    """Lines of all formats that are known."""
    return [*(line for line, _, _ in LINES.values()), *MORE]


def changed(line: str, chance: random.Random) -> str:
    """Return a line in which some numbers are others: mostly of the same kind, and some of any."""

    def digits(match: re.Match[str]) -> str:
        what = chance.random()
        if what < 0.6:
            return "".join(chance.choice("0123456789") for _ in match[0])
        if what < 0.9:
            return str(chance.randrange(10 ** chance.randrange(1, 15)))
        return chance.choice(NUMBERS)

    return re.sub(r"\d+", digits, line)


def readings(lines: list[str]) -> list[str]:
    """Return what a reader finds, as text: `nan` is not equal to itself."""
    reader = LineReader()
    return [repr((reader.feed(f"{line}\n", at=float(at)), reader.progress)) for at, line in enumerate(lines)]


@pytest.mark.parametrize("line", all_lines())
def test_a_known_shape_changes_nothing(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(line)
    lines = [line, *(changed(line, chance) for _ in range(150))]
    with monkeypatch.context() as patch:
        patch.setattr(shapes, "MOST_SHAPES", 0)
        expected = readings(lines)
    monkeypatch.setattr(shapes, "FIRST_SHAPES", 1000)
    assert readings(lines) == expected


@pytest.mark.parametrize("line", MORE[:3])
def test_lines_that_differ_in_numbers_have_one_shape(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    known = LineReader()
    known.feed(f"{line}\n", 0.0)
    monkeypatch.setattr(shapes.Shapes, "learn", lambda *_: pytest.fail("a shape was not known again"))
    found = known.feed(f"{line.replace('loss ', 'loss -').replace('loss=', 'loss=1').replace('--', '')}\n", 1.0)
    assert [one for one in found if isinstance(one, Reading)]


def test_a_log_of_ever_new_lines_learns_few_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    of = shapes._shape_of

    def counted(line: str, *rest: object) -> shapes.LineShape | None:
        made.append(line)
        return of(line, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(shapes, "_shape_of", counted)
    reader = LineReader()
    found = [reader.feed(f"step={n} loss=0.5 id=x{n}y\n", float(n)) for n in range(500)]
    assert all(found)
    assert len(made) == shapes.FIRST_SHAPES
