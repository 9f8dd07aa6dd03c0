"""How far a training got, by what its log says."""

from __future__ import annotations

import pytest

from ugro.control_plane.training_metrics.steps import Progress, last_progress, progress_of


@pytest.mark.parametrize(
    ("line", "step", "total", "epoch"),
    [
        ("step 12/100 epoch 1 loss 2.8869 lr 1.50e-03", 12, 100, 1),
        ("{'step': 12, 'loss': 2.1}", 12, None, None),
        ("Epoch 1:  12%|█▎   | 12/100 [00:10<01:00, 1.2it/s, loss=2.1]", 12, 100, 1),
        ("\x1b[32m 12%|█▎   | 12/100 [00:10<01:00,  1.2it/s]\x1b[0m", 12, 100, None),
        ("iter 12: loss 2.3", 12, None, None),
        ("trainer/global_step=12", 12, None, None),
        (" iteration       12/     100 | consumed samples:  40 |", 12, 100, None),
        ("[2026-01-01 10:00:00,000] [INFO] [Rank 0] step=12, skipped=0, lr=[0.1]", 12, None, None),
        ("steps: 12 loss: 8.5 iter time (s): 0.5", 12, None, None),
        ("Step [1,200/5000]", 1200, 5000, None),
        ("{'loss': 2.3, 'grad_norm': 1.0, 'epoch': 0.5}", None, None, None),
        ("train_loss=nan", None, None, None),
        ("Epoch 12/20 - loss: 0.5", None, None, 12),
    ],
)
def test_steps_in_logs(line: str, step: int | None, total: int | None, epoch: int | None) -> None:
    seen = progress_of(line)
    assert seen and (seen.step, seen.total, seen.epoch) == (step, total, epoch)


@pytest.mark.parametrize(
    "line",
    [
        "", "max_steps=500", "{'batch_size': 2, 'steps': 400}", "steps=400 seed=1",
        "eval step 900/900", "[valid] step 3", "Total optimization steps = 2000",
         "--save_steps 100", "step time 12ms", "step 12 ms", "time per step 12", "step 0.5",
        "Loading checkpoint shards:  50%|█ | 1/2 [00:01<00:01]", "Map: 100%|██| 12/12 [00:01<00:01]",
        "Evaluating:  5%|x| 1/20 [00:01<00:20]", "rank 0 of 3", "a footstep 12", "lossless 3",
    ],
)  # fmt: skip
def test_what_is_no_step(line: str) -> None:
    assert progress_of(line) is None


def test_the_last_step_of_a_log_is_not_that_of_an_untitled_evaluation() -> None:
    bars = " 50%|x| 500/1000 [00:10<00:10]\r 51%|x| 510/1000 [00:10<00:10]\n  5%|x| 1/20 [00:01<00:20]\r"
    assert last_progress(bars) == Progress(510, 1000, bar=True)
    assert last_progress("step 3\n" + bars) == Progress(3)
    assert last_progress("loss: 2\nbye") == Progress(None)
    assert last_progress("hello\n") is None
