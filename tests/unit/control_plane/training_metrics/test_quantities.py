"""Tests of the common names of quantities."""

from __future__ import annotations

import pytest

from ugro.common.models.metrics import SeriesSource
from ugro.control_plane.training_metrics.quantities import quantity_of, shown_names

LOG, EVENTS, CSV = SeriesSource.LOG, SeriesSource.EVENT_FILE, SeriesSource.CSV


@pytest.mark.parametrize(
    ("quantity", "names"),
    [
        (
            "loss",
            "loss Loss train/loss train_loss training/loss training_loss loss/train Loss/train lm_loss train-loss",
        ),
        ("loss", "train_loss_step loss_metrics/global_avg_loss"),
        ("lr", "lr LR learning_rate learning-rate train/learning_rate train/lr lr-AdamW lr-SGD optim/lr"),
        ("grad_norm", "grad_norm train/grad_norm gradient_norm gnorm grad-norm global_grad_norm total_grad_norm"),
        (None, "val/loss val_loss eval_loss eval/loss test_loss valid_loss train/train_loss train_loss_epoch"),
        (None, "box_loss train/box_loss aux_loss loss_scale lossless lr-AdamW/pg1 lr-AdamW-1 warmup_lr grad_norm_clip"),
        (None, "train grad norm accuracy"),
    ],
)
def test_quantities(quantity: str | None, names: str) -> None:
    assert {name: quantity_of(name) for name in names.split()} == dict.fromkeys(names.split(), quantity)


@pytest.mark.parametrize(
    ("series", "shown"),
    [
        ([("loss", LOG), ("train/loss", EVENTS), ("train_loss", CSV)], ["loss", "loss", "loss"]),
        ([("loss", LOG), ("train_loss", LOG)], ["loss", "train_loss"]),
        ([("train_loss", LOG), ("loss", LOG)], ["train_loss", "loss"]),
        ([("training/loss", EVENTS), ("train/loss", EVENTS)], ["training/loss", "loss"]),
        ([("learning_rate", LOG), ("lr-AdamW", CSV), ("lr-SGD", CSV)], ["lr", "lr-AdamW", "lr"]),
        ([("val/loss", EVENTS), ("eval_loss", LOG)], ["val/loss", "eval_loss"]),
        ([], []),
    ],
)
def test_one_series_of_a_source_gets_the_common_name(series: list[tuple[str, SeriesSource]], shown: list[str]) -> None:
    assert list(shown_names(series).values()) == shown
    assert shown_names(reversed(series)) == shown_names(series)
