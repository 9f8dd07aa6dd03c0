"""What each GPU did: what is kept of an observation, how long, and how it is shown."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from ugro.cli.render.history import BLOCKS, GAP, buckets, sparkline, used_by
from ugro.common.errors import StateError
from ugro.common.models.gpu import Gpu, GpuProcess
from ugro.common.models.metrics import GpuLook
from ugro.control_plane.metadata_store import gpu_history
from ugro.control_plane.metadata_store.gpu_history import GpuHistory, Tier
from ugro.control_plane.resource_manager.monitor import PROGRAM_LENGTH, looks
from ugro.testing import builders

UUIDS = [f"GPU-{number:08d}" for number in range(4)]


def look(at: float, percent: int | None = 0, **fields: object) -> GpuLook:
    return GpuLook.model_validate({"at": at, "uuid": UUIDS[0], "utilization_percent": percent, **fields})


# --- what is kept ----------------------------------------------------------------------------------------------------


def test_a_look_says_of_each_gpu_what_it_does_and_who_has_it() -> None:
    python = GpuProcess(pid=7, name="/usr/bin/python3 train.py", user="bob", memory_mib=700)
    desktop = GpuProcess(pid=8, name="/usr/lib/xorg/Xorg", user="root", memory_mib=200)
    shown = {"utilization_percent": 97, "memory_used_mib": 800, "memory_total_mib": 8000, "temperature_c": 61}
    gpus = [
        Gpu(index=0, uuid=UUIDS[0], name="R", **shown, power_w=180.5, processes=(python,)),
        Gpu(index=1, uuid=UUIDS[1], name="R", memory_used_mib=800, processes=(desktop, python)),
        Gpu(index=2, uuid=UUIDS[2], name="R", memory_used_mib=200, processes=(desktop,)),
        Gpu(index=3, uuid=UUIDS[3], name="R", processes=(replace(python, name="x" * 5000),)),
        Gpu(index=4, uuid="", name="lost", problem="lost"),
    ]
    view = builders.node_view("a", *gpus, seen_at=50.0)
    found = looks(view, {UUIDS[0]: ("job-003",)})
    assert found[0] == GpuLook(at=50.0, uuid=UUIDS[0], **shown, power_w=180.5, job="job-003")
    assert [(each.uuid, each.job, each.program) for each in found[1:3]] == [
        (UUIDS[1], None, "python3 of bob"),
        (UUIDS[2], None, None),
    ]
    assert len(found) == 4 and found[3].program and len(found[3].program) == PROGRAM_LENGTH


def test_looks_are_kept_node_by_node_and_read_again(tmp_path: Path) -> None:
    kept = GpuHistory(tmp_path / "state")
    assert kept.nodes() == [] and kept.read("a", 0.0) == []
    assert not (tmp_path / "state").exists(), "reading writes nothing"
    kept.add("a", [look(1.0)])
    kept.add("a", [look(100.0, job="job-001")])
    kept.add("a.1", [look(3.0)])
    kept.add("empty", [])
    assert kept.nodes() == ["a", "a.1"]
    assert kept.read("a", 0.0) == [look(1.0), look(100.0, job="job-001")]
    assert kept.read("a", 1.5) == [look(100.0, job="job-001")]
    assert kept.read("a.1", 0.0) == [look(3.0)]
    assert (tmp_path / "state/history/a").stat().st_mode & 0o777 == 0o700


def seen(kept: GpuHistory, every: float, since: float = 0.0) -> list[float]:
    return [each.at for each in kept.read("a", since, every)]


def test_each_sample_is_kept_and_the_mean_of_each_minute_and_quarter(tmp_path: Path) -> None:
    kept = GpuHistory(tmp_path)
    for number in range(1801):
        kept.add("a", [look(2.0 * number, number % 100, power_w=50.0, throttled=("power_cap",) if number == 7 else ())])
    assert len(seen(kept, 2.0)) == 1801
    minutes = kept.read("a", 0.0)
    assert [each.at for each in minutes] == [60.0 * number for number in range(61)]
    second = minutes[1]
    assert second.range and second.range.utilization_percent == (1, 30) and second.utilization_percent in (15, 16)
    assert second.throttled == ("power_cap",) and minutes[2].throttled == () and second.power_w == 50.0
    quarters = kept.read("a", 0.0, 900.0)
    assert [each.at for each in quarters] == [0.0, 900.0, 1800.0, 2700.0, 3600.0]
    assert quarters[1].range and quarters[1].range.utilization_percent == (0, 99)
    assert seen(kept, 2.0, 3590.0) == [3590.0, 3592.0, 3594.0, 3596.0, 3598.0, 3600.0]


def test_what_is_older_than_a_file_comes_from_the_next_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_history, "RAW", Tier("raw", 2.0, 100.0))
    monkeypatch.setattr(gpu_history, "TIERS", (gpu_history.RAW, gpu_history.MINUTES, gpu_history.QUARTERS))
    kept = GpuHistory(tmp_path)
    for number in range(301):
        kept.add("a", [look(2.0 * number)])
    found = seen(kept, 2.0)
    fine = [at for at in found if at % 60]
    assert found == sorted(found) and found[:3] == [0.0, 60.0, 120.0] and found[-1] == 600.0
    assert 100.0 <= 600.0 - min(fine) <= 202.0, "bounded, and as long as promised"


def test_a_history_of_before_is_read_on(tmp_path: Path) -> None:
    (tmp_path / "history/a").mkdir(parents=True)
    line = '{"at":%d,"uuid":"GPU-00000000","utilization_percent":50}\n'
    (tmp_path / "history/a/looks.jsonl").write_text("".join(line % (60 * number) for number in range(5000)))
    kept = GpuHistory(tmp_path)
    kept.add("a", [look(300_000.0)])
    assert seen(kept, 60.0)[:2] == [0.0, 60.0] and seen(kept, 60.0, 299_000.0)[0] == 299_040.0


def test_a_clock_that_was_set_back_stops_nothing(tmp_path: Path) -> None:
    kept = GpuHistory(tmp_path)
    for at in (10_000.0, 5_000.0, 5_002.0):
        kept.add("a", [look(at)])
    assert seen(kept, 60.0)[-2:] == [10_000.0, 5_000.0] and seen(kept, 2.0)[-3:] == [10_000.0, 5_000.0, 5_002.0]


def test_a_torn_line_costs_only_itself(tmp_path: Path) -> None:
    kept = GpuHistory(tmp_path)
    kept.add("a", [look(1.0)])
    for name in ("looks", "raw"):
        with open(tmp_path / f"history/a/{name}.jsonl", "a") as file:
            file.write('{"at": 2.0, "uu')
    kept.add("a", [look(100.0)])
    assert seen(kept, 60.0) == seen(kept, 2.0) == [1.0, 100.0]


def test_the_history_of_a_node_stays_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_history, "LIMIT", 2000)
    kept = GpuHistory(tmp_path)
    for number in range(200):
        kept.add("a", [look(1000.0 * number)])
    found = [each.at for each in kept.read("a", 0.0)]
    assert found == [1000.0 * number for number in range(200 - len(found), 200)] and len(found) > 20
    assert sum(path.stat().st_size for path in (tmp_path / "history").rglob("*.jsonl")) < 3 * (2 * 2000 + 500)


def test_what_the_disk_says_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "history").touch()
    for act in (lambda kept: kept.add("a", [look(1.0)]), lambda kept: kept.nodes()):
        with pytest.raises(StateError, match="history"):
            act(GpuHistory(tmp_path))
    os.unlink(tmp_path / "history")


# --- how it is shown -------------------------------------------------------------------------------------------------


def shown(*seen: tuple[float, int | None], until: float = 4000.0, count: int = 4) -> list[float | None]:
    return buckets([look(at, percent) for at, percent in seen], lambda each: each.utilization_percent, 0, until, count)


def test_buckets_are_means_and_what_was_not_seen_is_not_zero() -> None:
    assert shown((0, 10), (999, 30), (1000, 50), (3999, 7)) == [20, 50, None, 7]
    assert shown((2500, None)) == [None] * 4
    assert shown((-1, 10), (4000, 90), (9999, 70)) == [None, None, None, 80], "looks from after the end count there"
    assert shown() == [None] * 4


def test_a_look_stands_for_the_time_after_it_but_not_for_long() -> None:
    assert shown((90, 10), until=400, count=4) == [10, 10, 10, 10]
    assert shown((0, 10), (50, 30), until=2 * GAP, count=4) == [20, 30, 30, None], "the last one, not the mean"


def test_sparklines() -> None:
    assert sparkline([0, 12, 13, 50, 99, 100, None, 250], 100) == "▁▁▂▅██ █"
    assert sparkline([0, 0], 0) == "▁▁"
    assert sparkline(range(8), 8) == BLOCKS


def test_who_used_a_gpu() -> None:
    assert used_by([look(1.0), look(2.0)]) == "-"
    users = [look(1.0, job="job-001"), look(2.0, job="job-001"), look(3.0, program="x\x1b[31m of bob")]
    assert used_by(users) == "job-001, x of bob"
    many = [look(float(number), job=f"job-{number:03d}") for number in range(6)]
    assert used_by(many) == "3 more, job-003, job-004, job-005"
