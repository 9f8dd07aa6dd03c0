"""Estimates of memory through the service layer."""

from __future__ import annotations

from pathlib import Path

import pytest
from door import Door

from ugro.common.errors import InputError, InventoryError
from ugro.service.schemas.estimate import EstimateMemory
from ugro.service.submission import read_training

GPT2 = ("--model", "gpt2", "--batch", "4", "--seq", "512")


def test_estimates_by_formulas_for_usual_gpus(door: Door) -> None:
    found = door.call(EstimateMemory(arguments=GPT2))
    answer = found.answer
    assert answer.estimate.source == "model" and found.world_size == 1 and found.detail
    assert answer.estimate.low_mib < answer.estimate.mib < answer.estimate.high_mib
    assert [card.memory_mib // 1024 for card in answer.gpus] == [8, 12, 16, 24, 80]
    assert {card.fit for card in answer.gpus} == {"fits"} and answer.alternatives == ()
    large = door.call(EstimateMemory(arguments=("--model", "7b"), gpus=2))
    assert large.world_size == 2 and large.answer.gpus[0].fit == "does_not" and large.answer.alternatives


def test_takes_what_the_job_says(door: Door) -> None:
    found = door.call(EstimateMemory(vram=10240))
    assert (found.answer.estimate.mib, found.answer.estimate.source, found.world_size) == (10240, "vram", None)
    assert [card.batch for card in found.answer.gpus] == [None] * 5


@pytest.mark.parametrize("request_", [EstimateMemory(), EstimateMemory(model="nosuch")])
def test_refuses_a_model_of_unknown_size(door: Door, request_: EstimateMemory) -> None:
    with pytest.raises(InputError, match="the size of the model cannot be determined"):
        door.call(request_)


def test_refuses_an_inventory_that_was_named_and_does_not_exist(door: Door, home: Path) -> None:
    (home / "inventory.yaml").unlink()
    with pytest.raises(InventoryError):
        door.call(EstimateMemory(arguments=GPT2))


def test_reads_a_training_from_a_job_file(home: Path) -> None:
    (home / "train.py").touch()
    (home / "job.yaml").write_text("script: train.py\nargs: [--model, gpt2]\nvram: 6G\n")
    training = read_training(str(home / "job.yaml"), ("--batch", "2"), False, False)
    assert training.args == ("--model", "gpt2", "--batch", "2") and training.vram == 6144 and training.run
    with pytest.raises(InputError, match="there is no script"):
        read_training(str(home / "nosuch.py"), (), False, False)
