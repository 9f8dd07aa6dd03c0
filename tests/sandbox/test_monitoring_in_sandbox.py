"""What Prometheus reads of the sandbox while a job trains: all that the examples need, by serve and by a sweep."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from monitoring import Sample, names, samples
from places import EXAMPLES

from ugro.sandbox.cluster import Sandbox
from ugro.testing.commands import Ugro, document, until
from ugro.testing.testbed.machine import Begun

CLUSTER = ("gpu1", "gpu2")

TRAIN = """\
import os, time
for step in range(1, 100_000):
    if os.environ["RANK"] == "0":
        print(f"step {step}/100000 loss {9 / step:.6f} lr 1e-04", flush=True)
    time.sleep(0.05)
"""

SELDOM = {"ugro_gpu_throttled", "ugro_queue_oldest_seconds", "ugro_alerts_total", "ugro_ssh_errors_total"}
"""What is there only where something waits or is wrong."""

OF_SERVE = re.compile(r"ugro_(\w+_total|tick_seconds_\w+|ws_clients|event_loop_lag_seconds)")
OF_SWEEPS = "ugro_last_sweep_timestamp_seconds"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    (folder / "train.py").write_text(TRAIN)
    return folder


@pytest.fixture(scope="module")
def job(ugro: Ugro, project: Path) -> Iterator[str]:
    found = document(ugro("launch", "train.py", "--nodes", "gpu1", "--json"))["id"]
    yield found
    ugro("cancel", found, "--yes")


@pytest.fixture
def url(begun: Begun) -> Iterator[str]:
    """The address of a resident controller."""
    with begun("serve", "--every", "0.5", "--listen", "127.0.0.1:0") as process:
        try:
            assert process.stdout
            told = process.stdout.readline() + process.stdout.readline()
            [address] = re.findall(r"http://127\.0\.0\.1:\d+", told)
            yield address
        finally:
            process.kill()
            process.communicate()


def needed() -> set[str]:
    """What alerts and the board ask for."""
    text = "".join((EXAMPLES / "monitoring" / name).read_text() for name in ("alerts.yml", "grafana-dashboard.json"))
    return set(re.findall(r"(?<!\$)\bugro_[a-z_]+", text)) - {"ugro_job"}


def of(found: dict[Sample, float], name: str) -> dict[str, float]:
    """Values of a metric by node or job."""
    pairs = ((dict(labels), value) for (known, labels), value in found.items() if known == name)
    return {labels.get("ugro_job", labels.get("node", "")): value for labels, value in pairs}


def test_the_board_and_the_alerts_find_what_they_ask_for(sandbox: Sandbox, ugro: Ugro, job: str, url: str) -> None:
    token = (Path(sandbox.environment()["UGRO_HOME"]) / "token.view").read_text().strip()
    asked = urllib.request.Request(f"{url}/metrics", headers={"Authorization": f"Bearer {token}"})

    def scrape() -> dict[Sample, float]:
        try:
            with urllib.request.urlopen(asked, timeout=30) as answer:
                return samples(answer.read())
        except urllib.error.HTTPError as error:
            assert error.code == 503, "there was no tick so far"
            return {}

    missing = needed() - SELDOM - {OF_SWEEPS}
    until(lambda: missing <= names(scrape()))
    found = scrape()
    assert of(found, "ugro_node_up") == {"gpu1": 1, "gpu2": 1}
    assert of(found, "ugro_job_steps_expected") == {job: 100_000} and of(found, "ugro_job_step")[job] > 0
    assert of(found, "ugro_job_loss")[job] == pytest.approx(9 / of(found, "ugro_job_step")[job], rel=0.5)
    assert of(found, "ugro_job_learning_rate") == {job: 1e-4}
    assert of(found, "ugro_gpu_job_info") == {job: 1} and of(found, "ugro_job_gpus") == {job: 1}


def test_a_sweep_leaves_a_file(ugro: Ugro, job: str, tmp_path: Path) -> None:
    def sweep() -> set[str]:
        assert ugro("sweep", "--textfile", str(tmp_path)).returncode == 0
        return names(samples((tmp_path / "ugro.prom").read_bytes()))

    wanted = {name for name in needed() - SELDOM if not OF_SERVE.fullmatch(name)} | {OF_SWEEPS}
    until(lambda: wanted <= sweep())
    assert not [name for name in sweep() if OF_SERVE.fullmatch(name)]


def test_a_folder_that_cannot_be_written_stops_no_pass(ugro: Ugro, job: str, tmp_path: Path) -> None:
    swept = ugro("sweep", "--textfile", str(tmp_path / "none"), "--json")
    assert swept.returncode == 2 and "changes" in swept.stdout
    assert "ugro.prom cannot be written: No such file or directory" in swept.stderr
    assert "Traceback" not in swept.stderr
