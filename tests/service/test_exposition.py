"""A snapshot as Prometheus reads it: names, labels, and what is left out."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from monitoring import HOSTILE, NOW, as_told, counts, known, names, of_jobs, require_prometheus, samples, snapshot, told

from ugro.common.errors import InputError
from ugro.service.exposition import LABEL, text, write_textfile
from ugro.service.live import live_view
from ugro.service.monitoring import LIVE_JOBS, Serve, Snapshot, TrainingNow

BARE = re.compile(r"ugro_[a-z_]+|DCGM_FI_DEV_[A-Z_]+")


def of(found: dict[tuple[str, frozenset[tuple[str, str]]], float], metric: str, /, **labels: str) -> float | None:
    return found.get((metric, frozenset(labels.items())))


def test_tells_of_nodes_and_of_the_gpus_of_those_that_answer() -> None:
    found = told(snapshot())
    assert of(found, "ugro_node_up", node="gpu1") == 1 and of(found, "ugro_node_up", node="gpu2") == 0
    assert of(found, "ugro_node_up", node="gpu3") is None, "no tick asked it so far"
    assert of(found, "ugro_node_last_seen_timestamp_seconds", node="gpu2") == NOW - 500
    where = {"node": "gpu1", "gpu": "0", "uuid": "GPU-0"}
    assert of(found, "ugro_gpu_info", **where, name="llama", driver="550.1") == 1
    assert of(found, "ugro_gpu_utilization_ratio", **where) == 0.4
    assert of(found, "ugro_gpu_memory_used_bytes", **where) == 250 * 2**20
    assert of(found, "ugro_gpu_memory_total_bytes", **where) == 1000 * 2**20
    assert of(found, "ugro_gpu_temperature_celsius", **where) == 70
    assert of(found, "ugro_gpu_power_watts", **where) == 300.5
    assert of(found, "ugro_gpu_throttled", **where, reason="power_cap") == 1
    assert of(found, "ugro_gpu_job_info", **where, ugro_job="job-001") == 1
    assert not [one for one in found if one[0].startswith("ugro_gpu") and ("node", "gpu2") in one[1]]


def test_tells_of_jobs_that_have_not_ended_and_for_ten_minutes_after() -> None:
    found = told(snapshot())
    states = {state: of(found, "ugro_jobs", state=state) for state in ("queued", "held", "starting", "running")}
    assert states == {"queued": 1, "held": 0, "starting": 0, "running": 1}
    assert of(found, "ugro_queue_oldest_seconds") == 90 and of(found, "ugro_proposals_waiting") == 1
    jobs = {dict(labels)["ugro_job"] for name, labels in found if name == "ugro_job_info"}
    assert jobs == {"job-001", "job-002", "job-003"}
    training = {name: of(found, f"ugro_job_{name}", ugro_job="job-001") for name in ("step", "steps_expected", "loss")}
    assert training == {"step": 10, "steps_expected": 100, "loss": 0.75}
    assert of(found, "ugro_job_last_progress_timestamp_seconds", ugro_job="job-001") == NOW - 5
    assert of(found, "ugro_job_gpus", ugro_job="job-001") == 1
    assert of(found, "ugro_job_gpus", ugro_job="job-003") is None, "it holds none any more"


def test_tells_what_a_resident_counted() -> None:
    found = told(snapshot())
    assert of(found, "ugro_jobs_total", result="failed", cause="cuda_oom") == 2
    assert of(found, "ugro_jobs_total", result="succeeded", cause="") == 0, "so that the first one is an increase"
    assert of(found, "ugro_alerts_total", rule="node_down") == 1
    assert of(found, "ugro_ssh_errors_total", node="gpu2", kind="unreachable") == 1
    assert of(found, "ugro_ws_clients") == 3 and of(found, "ugro_event_loop_lag_seconds") == 0.002
    buckets = [of(found, "ugro_tick_seconds_bucket", le=bound) for bound in ("0.01", "0.05", "0.5", "30.0", "+Inf")]
    assert buckets == [1, 2, 3, 3, 4] and of(found, "ugro_tick_seconds_count") == 4
    assert of(found, "ugro_tick_seconds_sum") == pytest.approx(99.354)


def test_exposes_no_sample_of_unknown_values() -> None:
    bare = replace(known(), turns=[], proposals=[])
    one = Snapshot(live_view(bare), training={"job-001": TrainingNow(NOW, loss=float("nan"), rate=float("inf"))})
    found = told(one)
    for name in ("step", "steps_expected", "loss", "steps_per_second", "learning_rate"):
        assert f"ugro_job_{name}" not in names(found)
    assert of(found, "ugro_queue_oldest_seconds") is None and of(found, "ugro_proposals_waiting") == 0
    assert not {name for name in names(found) if name.startswith("DCGM") or name.endswith(("_total", "_bucket"))}
    assert "ugro_last_sweep_timestamp_seconds" not in names(found)
    assert all(value == value and abs(value) != float("inf") for value in found.values())


def test_no_label_is_prometheus_own_and_no_counter_names_a_job() -> None:
    for name, labels in told(snapshot()):
        keys = {key for key, _ in labels}
        assert not keys & {"job", "instance"} and BARE.fullmatch(name)
        assert "ugro_job" not in keys or not name.endswith(("_total", "_bucket", "_sum", "_count"))


def test_exposes_only_sums_of_many_jobs() -> None:
    most, more = told(of_jobs(LIVE_JOBS)), told(of_jobs(LIVE_JOBS + 1))
    assert of(most, "ugro_metrics_dropped") == 0 and of(more, "ugro_metrics_dropped") == LIVE_JOBS + 1
    assert len([1 for name, _ in most if name == "ugro_job_info"]) == LIVE_JOBS
    assert of(more, "ugro_jobs", state="queued") == LIVE_JOBS + 1
    assert not [labels for _, labels in more if "ugro_job" in dict(labels)]
    assert len(text(of_jobs(10_000))) < 20_000


def test_repeats_the_names_of_dcgm_exporter_where_they_are_asked_for() -> None:
    found = {name: (dict(labels), value) for (name, labels), value in told(snapshot()).items() if name[0] == "D"}
    assert {name: value for name, (_, value) in found.items()} == {
        "DCGM_FI_DEV_GPU_UTIL": 40,
        "DCGM_FI_DEV_FB_USED": 250,
        "DCGM_FI_DEV_FB_FREE": 750,
        "DCGM_FI_DEV_GPU_TEMP": 70,
        "DCGM_FI_DEV_POWER_USAGE": 300.5,
    }
    labels, _ = found["DCGM_FI_DEV_FB_FREE"]
    assert labels == {
        "gpu": "0",
        "UUID": "GPU-0",
        "device": "nvidia0",
        "modelName": "llama",
        "Hostname": "gpu1",
        "hostname": "gpu1",
    }


def test_any_name_stays_a_value() -> None:
    hostile = replace(snapshot(live_view(known(HOSTILE))), serve=Serve(counts(), 0, None))
    hostile.serve.counts.node_errors.add((HOSTILE, HOSTILE))  # type: ignore[union-attr]
    found = samples(text(hostile))
    assert names(found) == names(told(snapshot())) - {"ugro_event_loop_lag_seconds"}
    [name] = [dict(labels)["name"] for name, labels in found if name == "ugro_job_info" and "job-001" in str(labels)]
    assert name == as_told(HOSTILE)
    long = told(snapshot(live_view(known("x" * 10_000))))
    assert max(len(value) for _, labels in long for _, value in labels) == LABEL


def test_promtool_finds_nothing_wrong() -> None:
    require_prometheus()
    for one in (snapshot(live_view(known(HOSTILE))), Snapshot(live_view(known()))):
        ours = replace(one, dcgm_names=False)  # NVIDIA's names are as they are
        checked = subprocess.run(["promtool", "check", "metrics"], input=text(ours), capture_output=True, timeout=60)
        assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def test_a_file_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    for at in (1.0, 2.0):
        write_textfile(replace(snapshot(), swept_at=at), tmp_path)
    [file] = tmp_path.iterdir()
    assert file.name == "ugro.prom" and file.stat().st_mode & 0o777 == 0o644
    assert of(samples(file.read_bytes()), "ugro_last_sweep_timestamp_seconds") == 2.0
    for folder in (file, tmp_path / "none"):
        with pytest.raises(InputError, match=r"ugro\.prom cannot be written: (Not a directory|No such file)"):
            write_textfile(snapshot(), folder)
    assert [file] == list(tmp_path.iterdir())
