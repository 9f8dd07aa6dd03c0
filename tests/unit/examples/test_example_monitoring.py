"""The monitoring examples: each metric that they name exists, and Prometheus's own tool finds no mistake."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from monitoring import names, require_prometheus, snapshot, told
from places import EXAMPLES

FOLDER = EXAMPLES / "monitoring"
ALERTS = [rule for group in yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"] for rule in group["rules"]]
BOARD: dict[str, Any] = json.loads((FOLDER / "grafana-dashboard.json").read_text())

GPU = 'node="gpu1",gpu="0",uuid="U",instance="i"'
SERIES = {
    "UgroNodeDown": ['ugro_node_up{node="gpu2",instance="i"} 0'],
    "UgroGpuIdleInJob": [
        f"ugro_gpu_utilization_ratio{{{GPU}}} 0",
        f'ugro_gpu_job_info{{{GPU},ugro_job="job-001"}} 1',
        'ugro_gpu_utilization_ratio{node="gpu2",gpu="0",uuid="V",instance="i"} 0',
        'ugro_gpu_utilization_ratio{node="gpu3",gpu="0",uuid="W",instance="i"} 0.9',
        'ugro_gpu_job_info{node="gpu3",gpu="0",uuid="W",instance="i",ugro_job="job-002"} 1',
    ],
    "UgroNoProgress": [
        'ugro_job_last_progress_timestamp_seconds{ugro_job="job-001",instance="i"} 0',
        'ugro_job_gpus{ugro_job="job-001",instance="i"} 0',
        'ugro_job_last_progress_timestamp_seconds{ugro_job="job-002",instance="i"} 0',
    ],
    "UgroProposalWaiting": ["ugro_proposals_waiting 1"],
    "UgroGpuHot": [f"ugro_gpu_temperature_celsius{{{GPU}}} 91", 'ugro_gpu_temperature_celsius{node="gpu2"} 60'],
    "UgroJobFailed": ['ugro_jobs_total{result="failed",cause="cuda_oom",instance="i"} 0+0x55 1+0x60'],
    "UgroNoTicks": ["ugro_tick_seconds_count 7"],
    "UgroSweepLate": ["ugro_last_sweep_timestamp_seconds 0"],
    "UgroGone": ['up{job="ugro"} 0'],
}
"""For each alert, series with which it fires once after an hour. Of those without an end the value stays."""


def expressions(value: Any) -> Iterator[str]:
    """What a board asks for, in panels and variables."""
    if isinstance(value, dict):
        for key, one in value.items():
            if key in ("expr", "query", "definition") and isinstance(one, str):
                yield one
            else:
                yield from expressions(one)
    elif isinstance(value, list):
        for one in value:
            yield from expressions(one)


def named(text: str) -> set[str]:
    return set(re.findall(r"(?<!\$)\b(?:ugro_[a-z_]+|DCGM_\w+)", text)) - {"ugro_job"}


def test_every_metric_of_the_board_exists() -> None:
    asked = list(expressions(BOARD))
    found = set[str]().union(*map(named, asked))
    assert len(asked) > 25 and found <= names(told(snapshot())), found - names(told(snapshot()))
    assert found >= {"ugro_gpu_throttled", "ugro_job_loss", "ugro_node_up", "ugro_tick_seconds_bucket"}


def test_the_board_can_be_imported() -> None:
    assert BOARD["schemaVersion"] >= 39 and BOARD["__inputs"][0]["name"] == "DS_PROMETHEUS"
    kinds = {panel["type"] for panel in BOARD["panels"]}
    assert kinds == {"row", "stat", "timeseries", "state-timeline"}
    assert [one["name"] for one in BOARD["templating"]["list"]] == ["node", "gpu", "ugro_job"]
    panels = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
    assert all(panel["datasource"]["uid"] == "${DS_PROMETHEUS}" for panel in panels)
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])
    places = [
        (x, y)
        for at in (panel["gridPos"] for panel in BOARD["panels"])
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(places) == len(set(places)) and max(x for x, _ in places) == 23


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_every_metric_of_an_alert_exists(rule: dict[str, Any]) -> None:
    assert named(rule["expr"]) <= names(told(snapshot()))
    assert {"summary", "description"} <= set(rule["annotations"]) and rule["labels"]["severity"]


def test_promtool_finds_nothing_wrong(tmp_path: Path) -> None:
    require_prometheus()
    shutil.copytree(FOLDER, tmp_path / "etc")
    (tmp_path / "etc/ugro.token").write_text("token\n")
    for words in (("check", "config", "prometheus.yml"), ("check", "rules", "alerts.yml")):
        checked = subprocess.run(["promtool", *words], cwd=tmp_path / "etc", capture_output=True, text=True, timeout=60)
        assert checked.returncode == 0 and "SUCCESS" in checked.stdout, checked.stdout + checked.stderr


FIRES = {
    "UgroNodeDown": 'node="gpu2"',
    "UgroGpuIdleInJob": 'node="gpu1",ugro_job="job-001"',
    "UgroNoProgress": 'ugro_job="job-001"',
    "UgroGpuHot": 'node="gpu1"',
    "UgroJobFailed": 'cause="cuda_oom"',
}
"""For alerts that others of their series must not fire, labels of the one that does."""


def test_every_alert_fires_where_it_should_and_nowhere_else(tmp_path: Path) -> None:
    require_prometheus()
    assert set(SERIES) == {rule["alert"] for rule in ALERTS}
    tests = [
        {
            "interval": "1m",
            "input_series": [{"series": name, "values": values} for name, values in map(series_of, series)],
            "promql_expr_test": [
                {
                    "expr": f'count(ALERTS{{alertname="{alert}",alertstate="firing"{labels}}})',
                    "eval_time": "1h",
                    "exp_samples": [{"labels": "{}", "value": 1}],
                }
                for labels in ("", f",{FIRES.get(alert, '')}")
            ],
        }
        for alert, series in SERIES.items()
    ]
    file = tmp_path / "tests.yml"
    file.write_text(yaml.safe_dump({"rule_files": [str(FOLDER / "alerts.yml")], "tests": tests}))
    tested = subprocess.run(["promtool", "test", "rules", str(file)], capture_output=True, text=True, timeout=60)
    assert tested.returncode == 0, tested.stdout + tested.stderr


def series_of(line: str) -> tuple[str, str]:
    """Name with labels, and values."""
    name, brace, values = line.rpartition("} ")
    if not brace:
        name, _, values = line.partition(" ")
    return name + brace.strip(), values if "x" in values else f"{values}+0x120"
