"""Notebooks and event files through the service layer, with a stand-in for Jupyter."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from door import Door

from tests.unit.control_plane.controller.test_tick import STAY
from ugro.common.errors import InputError
from ugro.common.job_spec import JobSpec
from ugro.common.models.job_state import JobState
from ugro.service.notebook import VARIABLE, notebook_spec
from ugro.service.schemas.notebook import FindNotebook
from ugro.service.schemas.tensorboard import BringEventFiles
from ugro.testing import builders

GROWS = """\
import os, time
os.makedirs("runs")
file = open("runs/events.out.tfevents.1.here", "wb")
file.write(b"first"); file.flush()
while not os.path.exists("more"): time.sleep(0.05)
file.write(b" second"); file.close()
"""


def test_reads_a_notebook_as_a_job_that_waits_for_its_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ugro.toml").write_text('priority = 3\n[env]\nA = "1"\n')
    spec = notebook_spec({"nodes": "gpu1", "gpus_per_node": 1, "secrets": ("HF_TOKEN",)}, ("--debug",)).spec
    assert (spec.launcher, spec.nodes, spec.priority, spec.env["A"]) == ("none", ("gpu1",), 3, "1")
    assert spec.command[:2] == ("sh", "-c") and spec.command[-1] == "--debug" and spec.outputs == ("**/*.ipynb",)
    assert spec.hang_after and spec.hang_after.min > 365 * 86400 and spec.on_failure.default == "fail"
    [token] = spec.tokens
    assert spec.secret_names == {"HF_TOKEN": "HF_TOKEN", VARIABLE: token}
    assert notebook_spec({"nodes": 1}, ()).spec.tokens != {token}
    assert JobSpec.model_validate_json(spec.model_dump_json()) == spec


def test_refuses_what_is_no_notebook_and_says_how_an_ended_one_runs_again(door: Door) -> None:
    job = door.submit(STAY, hold=True)
    with pytest.raises(InputError, match="job-001 is no notebook") as caught:
        door.call(FindNotebook(job=job.id))
    assert caught.value.hint == "start one: ugro notebook"
    waiting = door.submit(STAY, hold=True, env={"START_NOTEBOOK": "x"})
    found = door.call(FindNotebook(job=waiting.id))
    assert (found.node, found.port, found.token) == (None, None, None)
    builders.cancel(door.store, waiting.id)
    door.until(waiting, JobState.CANCELLED)
    with pytest.raises(InputError, match="it serves no notebook") as caught:
        door.call(FindNotebook(job=waiting.id))
    assert caught.value.hint == f"run it again: ugro rerun {waiting.id}"


def test_extends_event_files_in_their_place_and_keeps_them(door: Door, tmp_path: Path) -> None:
    job = door.until(door.submit(GROWS), JobState.RUNNING)
    code = door.project.parent / "node/jobs" / job.id / "code"
    request = BringEventFiles(job=job.id, shown=str(tmp_path / "shown"))
    while door.call(request).received < len("first"):
        pass
    shown = tmp_path / "shown/runs/events.out.tfevents.1.here"
    with shown.open("rb") as held:  # as TensorBoard does
        assert held.read() == b"first" and door.call(request).received == 0
        (code / "more").touch()
        door.until(job, JobState.SUCCEEDED)
        found = door.call(request)
        assert (found.ended, found.files, found.received, found.errors) == (True, 1, len(" second"), ())
        assert held.read() == b" second"
    shutil.rmtree(code)
    other = BringEventFiles(job=job.id, shown=str(tmp_path / "other"))
    assert door.call(other).files == 1 and (tmp_path / "other/runs" / shown.name).read_bytes() == b"first second"
    assert (tmp_path / "other").is_symlink()


def test_brings_nothing_of_a_job_that_has_not_started(door: Door, tmp_path: Path) -> None:
    job = door.submit(STAY, hold=True)
    found = door.call(BringEventFiles(job=job.id, shown=str(tmp_path / "shown")))
    assert (found.files, found.ended, found.errors) == (0, False, ())
