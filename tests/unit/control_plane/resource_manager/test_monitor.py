"""What is new about a node, and what a job uses of its GPUs."""

from __future__ import annotations

import pytest

from ugro.common.errors import Unreachable
from ugro.common.models.gpu import Gpu, GpuProcess
from ugro.common.models.job import NodeShare, Placement, Rank
from ugro.common.models.node import NodeView, Silence
from ugro.control_plane.resource_manager.monitor import news, peak, samples, silences
from ugro.testing import builders

MINE = "m-1 me@master since 2026-11-24T10:00:00+00:00"
THEIRS = "m-2 you@other since 2026-11-24T11:00:00+00:00"
DISPLAY = GpuProcess(pid=900, name="/usr/lib/xorg/Xorg", user="ada", memory_mib=300)


def view(owner: str | None = None, gpu: Gpu | None = None) -> NodeView:
    return builders.node_view("n", *([gpu] if gpu else []), owner=owner)


@pytest.mark.parametrize("before", [None, view(), view(MINE)])
def test_that_another_master_runs_a_node_is_told_once(before: NodeView | None) -> None:
    told = dict(news(before, view(THEIRS), "m-1"))
    assert told["other_master"].startswith("another master runs it: you@other since 2026-11-24T11:00:00+00:00; ")
    assert "--takeover" in told["other_master"]
    assert "other_master" not in dict(news(view(THEIRS), view(THEIRS), "m-1"))


@pytest.mark.parametrize("now", [None, MINE])
def test_an_own_node_and_a_free_one_are_no_news(now: str | None) -> None:
    assert list(news(view(THEIRS), view(now), "m-1")) == []
    assert [kind for kind, _ in news(None, view(now), "m-1")] == ["joined"]


def test_a_master_that_has_no_id_yet_is_another_one() -> None:
    assert "other_master" in dict(news(None, view(THEIRS), ""))


@pytest.mark.parametrize(
    ("used", "processes", "own"),
    [
        (418, (), None),
        (700, (DISPLAY,), None),
        (3418, (DISPLAY, GpuProcess(pid=7, name="python3", memory_mib=3000)), 3000),
        (3418, (GpuProcess(pid=8, name="python3", memory_mib=2000), GpuProcess(pid=9, name="a", memory_mib=500)), 2500),
        (3418, (GpuProcess(pid=7, name="python3"),), 3418),
        (3418, (), 3418),
        (None, (), None),
    ],
    ids=["a display", "a named display", "the rank", "its children", "no sizes", "no names", "nothing"],
)
def test_a_peak_is_of_the_jobs_own_memory(used: int | None, processes: tuple[GpuProcess, ...], own: int | None) -> None:
    gpu = builders.gpu(uuid="GPU-1", memory_used_mib=used, processes=processes)
    job = builders.job(ranks=(Rank(rank=0, local_rank=0, node="n", gpu="GPU-1", pid=7),))
    seen = samples(job, {"n": view(gpu=gpu)}, 1.0)
    assert [sample.memory_mib for sample in seen] == [own] and peak(seen) == own


def test_samples_the_highest_of_each_value_for_a_rank_that_has_several_gpus() -> None:
    share = NodeShare(node="n", node_rank=0, first_rank=0, nproc=1, gpus=("GPU-0", "GPU-1"))
    rank = Rank(rank=0, local_rank=0, node="n", gpu="GPU-0", pid=7)
    job = builders.job(ranks=(rank,), placement=Placement(shares=(share,)))

    def gpu(index: int, mib: int, percent: int) -> Gpu:
        mine = (GpuProcess(pid=7, name="python3", memory_mib=mib),)
        return builders.gpu(index, memory_used_mib=mib, utilization_percent=percent, processes=mine)

    views = {"n": builders.node_view("n", gpu(0, 900, 5), gpu(1, 3000, 80), gpu(2, 7000, 99))}
    (seen,) = samples(job, views, 1.0)
    assert (seen.rank, seen.memory_mib, seen.utilization_percent, seen.power_w) == (0, 3000, 80, None)


@pytest.mark.parametrize(
    ("looks", "watched"),
    [
        ([0, 2, 4, 6], 6),
        ([0, 60.4, 119.8, 181], 181),  # cron, every minute or so
        ([0, 1800, 3601, 5400], 3600),  # every half an hour: the second such gap is usual
        ([0, 2, 4, 30000, 30002], 6),  # the master slept
        ([0, 2, 1, 3], 4),  # its clock was set back
    ],
)
def test_silence_counts_while_somebody_looks_as_often_as_before(looks: list[float], watched: float) -> None:
    known: dict[str, Silence] = {}
    for at in looks:
        known = silences(known, {"n": Unreachable("n", "does not answer")}, at)
    assert known["n"].watched == pytest.approx(watched)
