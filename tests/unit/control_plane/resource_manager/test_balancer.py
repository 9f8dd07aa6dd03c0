"""Batches by speed: the arithmetic, and the speed of this machine."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import EXAMPLES

from ugro.common.errors import NodeRefused
from ugro.control_plane.resource_manager.balancer import batch_shares, ddp_loss, speeds_in_words
from ugro.nodes.remote.bundle import load
from ugro.nodes.remote.speed import speed
from ugro.nodes.transport import LocalTransport
from ugro.testing import builders

SPEEDS = st.lists(st.floats(0.01, 1000), min_size=1, max_size=8)


@given(SPEEDS)
def test_shares_are_in_proportion_to_the_speeds(speeds: list[float]) -> None:
    shares = batch_shares(speeds)
    assert sum(shares) == pytest.approx(1, abs=1e-12)
    assert [share / shares[0] for share in shares] == pytest.approx([each / speeds[0] for each in speeds])
    assert 0 <= ddp_loss(speeds) < 1


def test_the_example_splits_a_batch_into_whole_samples_by_largest_remainder() -> None:
    pytest.importorskip("torch")
    split = _example_split()
    for size, shares, batches in (
        (16, (0.8, 0.2), [13, 3]),
        (24, (0.25, 0.25, 0.25, 0.25), [6, 6, 6, 6]),
        (10, (1 / 3, 1 / 3, 1 / 3), [4, 3, 3]),
        (10, (0.98, 0.01, 0.01), [8, 1, 1]),
        (10, (0.29, 0.29, 0.42), [3, 3, 4]),
        (2, (0.999, 0.001), [1, 1]),
    ):
        assert split(size, list(shares)) == batches


def _example_split() -> Callable[[int, list[float]], list[int]]:
    path = EXAMPLES / "train_production.py"
    spec = importlib.util.spec_from_file_location("train_production", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[spec.name]
    split: Callable[[int, list[float]], list[int]] = module.split_batch
    return split


@pytest.mark.parametrize("speeds", [(0.0, 1.0), (-1.0,), (float("nan"),), (float("inf"), 1.0)])
def test_what_is_no_speed(speeds: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="above 0"):
        batch_shares(speeds)


def test_in_words() -> None:
    names = ("RTX 4090", "RTX 3090", "RTX 3070 Ti")
    assert ddp_loss((48, 30, 22)) == pytest.approx(0.34)
    assert speeds_in_words(names, (48, 30, 22)) == (
        "equal batches would run at the pace of RTX 3070 Ti: 34 % slower than shares by speed (0.48, 0.30, 0.22)"
    )
    assert speeds_in_words(names, (1.0, 0.98, 1.0)) is None
    assert speeds_in_words(("RTX 4090",), (3.0,)) is None
    assert speeds_in_words((), ()) is None


def here(python: str) -> LocalTransport:
    return LocalTransport(builders.this_machine(python=python))


@pytest.mark.long
async def test_the_speed_of_this_machine(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    soon = load("speed/speed.py").replace("WARM_UP = 1.0", "WARM_UP = 0.1").replace("MEASURED = 2.0", "MEASURED = 0.2")
    monkeypatch.setattr("ugro.nodes.remote.python.load", lambda script: soon)
    measured = await speed.measure(here(sys.executable))
    assert [each.index for each in measured] == list(range(len(measured)))
    assert all(each.name and each.steps_per_second > 0 for each in measured)


@pytest.mark.long
async def test_a_gpu_that_is_not_there(home: Path) -> None:
    pytest.importorskip("torch")
    with pytest.raises(NodeRefused, match="torch sees 0 of the 1 GPUs asked for"):
        await speed.measure(here(sys.executable), ["GPU-00000000-0000-0000-0000-000000000000"])


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (
            """echo '{"ugro": 1, "kind": "speed", "payload": [{}]}'""",
            "its speed cannot be measured: the answer cannot be understood",
        ),
        ("echo '[{}]'", "its speed cannot be measured: the answer cannot be understood"),
        ("echo hello", "its speed cannot be measured: the answer cannot be understood"),
        ("echo first >&2; echo 'no torch' >&2; exit 1", "its speed cannot be measured: no torch"),
        ("exit 3", "its speed cannot be measured: exit 3"),
    ],
)
async def test_a_node_that_cannot_tell(home: Path, answer: str, problem: str) -> None:
    python = home / "python"
    python.write_text(f"#!/bin/sh\n{answer}\n")
    python.chmod(0o755)
    with pytest.raises(NodeRefused, match=problem):
        await speed.measure(here(str(python)))
