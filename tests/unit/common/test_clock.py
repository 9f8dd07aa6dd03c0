"""The clock that decisions are made by."""

from __future__ import annotations

import re
import time
from pathlib import Path

import ugro.control_plane
from ugro.common.clock import SYSTEM_CLOCK, Clock
from ugro.common.models.event_kind import EventKind
from ugro.control_plane.metadata_store import MetadataStore
from ugro.testing.clock import FakeClock

READS_TIME = re.compile(r"\btime\.(time|monotonic)\(")
OF_THE_SYSTEM = {"gpu_job.py", "locks.py", "log_index.py", "network_trial.py", "resident.py"}
"""What waits for other processes' locks, ends long searches, paces ticks, dates the logs of a trial, or runs as a job:
nothing is decided by these.
"""


def test_reads_the_time_of_this_machine() -> None:
    assert abs(SYSTEM_CLOCK.now() - time.time()) < 5.0
    before = time.monotonic()
    assert before <= SYSTEM_CLOCK.monotonic() <= time.monotonic()


def test_moves_only_as_a_test_says() -> None:
    clock = FakeClock(1000.0)
    told: Clock = clock
    clock.advance(60.0)
    clock.jump(-3600.0)
    assert (told.now(), told.monotonic()) == (-2540.0, 60.0)


def test_dates_events_by_the_clock_of_the_state_directory(tmp_path: Path) -> None:
    store = MetadataStore(tmp_path, FakeClock(1000.0))
    store.timeline.note("gpu1", EventKind.SILENT, "no route")
    assert [event.at for event in store.timeline.of_cluster()] == [1000.0]


def test_no_decision_of_the_control_plane_reads_another_clock() -> None:
    folder = Path(next(iter(ugro.control_plane.__path__)))
    found = {path.name for path in folder.rglob("*.py") if READS_TIME.search(path.read_text(encoding="utf-8"))}
    assert found == OF_THE_SYSTEM
