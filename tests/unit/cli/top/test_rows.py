"""What `ugro top` makes of the live view: rows, their order, bars and sparklines."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ugro.cli.top.rows import (
    BAR,
    FEW_SAMPLES,
    GPU_COLUMNS,
    JOB_COLUMNS,
    SAMPLES,
    Use,
    bar,
    gpu_rows,
    job_rows,
    sparkline,
    summary,
)
from ugro.service.schemas.live import LiveView

NOW = 1000.0
NODE = {
    "address": "10.0.0.1", "reachable": True, "error": None, "last_seen": None, "drained": None, "departed": False,
    "cpu_count": 8, "load_1m": 1.25, "memory_total_mib": 1, "memory_available_mib": 1, "disk_free_mib": 1,
    "gpu_problem": None,
}  # fmt: skip
GPU = {
    "index": 0, "name": "NVIDIA GeForce RTX 4070", "memory_total_mib": 8192, "memory_used_mib": 4096,
    "utilization_percent": 50, "temperature_c": 61, "power_w": 99.6, "problem": None, "job": "job-002",
}  # fmt: skip
JOB = {
    "attempt": 1, "reason": "", "nodes": (), "gpus": 0, "priority": 0, "submitted_at": 900.0, "started_at": None,
    "ended_at": None, "progress": None, "stopping": False, "alert": None, "user": None,
}  # fmt: skip
PROGRESS = {"step": 250, "steps": 1000, "epoch": None, "epochs": None, "steps_per_second": 5.0, "ends_at": NOW + 150}
SILENT = {"code": "node_unreachable", "message": "gpu2: no answer", "hint": ""}
UNKNOWN = {name: None for name in GPU if name not in ("index", "name")}


def a_view(**fields: Any) -> LiveView:
    """Two nodes, of which one is silent; a job that runs, one that waits, one that failed."""
    nodes = {
        "gpu1": NODE | {"name": "gpu1", "gpus": [GPU | {"uuid": "GPU-1"}]},
        "gpu2": NODE
        | {"name": "gpu2", "reachable": False, "error": SILENT, "gpus": [GPU | UNKNOWN | {"uuid": "GPU-2"}]},
        "cpu": NODE | {"name": "cpu", "gpus": []},
    }
    jobs = {
        "job-001": JOB | {"id": "job-001", "name": "old", "state": "failed", "started_at": 900.0, "ended_at": 960.0},
        "job-002": JOB
        | {"id": "job-002", "name": "lr", "state": "running", "started_at": 940.0, "gpus": 1, "nodes": ["gpu1"]}
        | {"progress": PROGRESS},
        "job-003": JOB | {"id": "job-003", "name": "job-003", "state": "queued", "reason": "behind job-004"},
        "job-004": JOB | {"id": "job-004", "name": "x\x1b[31m", "state": "queued", "reason": "no free GPU"},
    }
    whole = {"at": NOW, "attended": True, "nodes": nodes, "jobs": jobs, "queue": ["job-004", "job-003"]}
    return LiveView.checked(whole | {"proposals": {}, "links": {}, "problems": {}} | fields)


def test_a_gpu_has_its_node_its_bars_and_its_job() -> None:
    first, second, third = gpu_rows(a_view(), Use())
    assert first.cells[0] == "gpu1:0" and first.cells[1] == "RTX 4070"
    assert first.cells[2] == f"{bar(0.5)} 4.0 GiB / 8.0 GiB"
    assert first.cells[3:] == (" 50%", " " * SAMPLES, "61°C", "100 W", "job-002", "load 1.2/8")
    assert first.command == "ugro history gpu1"
    assert second.cells[2:8] == ("- - / -", "-", " " * SAMPLES, "-", "-", "-"), (
        "what the driver does not say is no zero"
    )
    assert second.cells[8] == "no answer" and second.states[8] == "failed"
    assert third.cells[:2] == ("cpu:-", "no GPU") and third.command == "ugro nodes"


def test_in_a_narrow_terminal_a_gpu_is_short_and_its_last_samples_take_no_more_room_with_time() -> None:
    use = Use()
    for _ in range(SAMPLES + 5):
        use.take(a_view())
        cells = gpu_rows(a_view(), use, narrow=True)[0].cells
        assert cells[2] == "4.0/8.0 GiB" and len(cells[4]) == FEW_SAMPLES
    assert cells[4] == "▄" * FEW_SAMPLES


def test_jobs_stand_in_the_order_of_their_lives_and_the_queue_in_that_of_its_turns() -> None:
    rows = job_rows(a_view(), NOW)
    assert [row.key for row in rows] == ["job-002", "job-004", "job-003", "job-001"]
    running, queued = rows[0], rows[1]
    assert running.cells[3] == f"{bar(0.25)}  25% 250/1000" and running.cells[4] == "2m 30s"
    assert queued.cells[1] == "x", "no escape reaches the terminal"
    assert queued.cells[2] == "queued #1" and queued.cells[7] == "waiting 1m 40s" and queued.cells[8] == "no free GPU"


def test_every_column_sorts_and_every_word_filters() -> None:
    view = a_view()
    for title in GPU_COLUMNS:
        assert {row.key for row in gpu_rows(view, Use(), title)} == {"GPU-1", "GPU-2", "cpu"}
    for title in JOB_COLUMNS:
        assert len(job_rows(view, NOW, title)) == 4
    assert next(row.key for row in gpu_rows(view, Use(), "UTIL")) == "GPU-1"
    assert next(row.key for row in job_rows(view, NOW, "PROGRESS")) == "job-002"
    assert [row.key for row in job_rows(view, NOW, words="FREE")] == ["job-004"]
    assert [row.key for row in gpu_rows(view, Use(), words="gpu2")] == ["GPU-2"]


def test_draws_the_use_of_a_gpu_with_gaps_while_its_node_is_unreachable() -> None:
    use = Use()
    for _ in range(SAMPLES + 5):
        use.take(a_view())
    assert use.of("GPU-1") == "▄" * SAMPLES and use.of("GPU-2") == " " * SAMPLES and use.of("other") == " " * SAMPLES


def test_the_summary_begins_with_what_needs_the_user() -> None:
    line = summary(a_view(attended=False))
    assert line == (
        "no scheduler runs: ugro serve · gpu2 unreachable · 3 nodes · 1 of 2 GPUs taken · 1 running · 2 waiting"
    )


@given(st.floats(-1, 2) | st.none())
def test_a_bar_has_its_width(part: float | None) -> None:
    assert len(bar(part)) == (1 if part is None else BAR)


@given(st.lists(st.integers(-5, 200) | st.none(), max_size=50))
def test_a_sparkline_has_a_cell_for_each_value(values: list[int | None]) -> None:
    assert len(sparkline(values)) == len(values)
