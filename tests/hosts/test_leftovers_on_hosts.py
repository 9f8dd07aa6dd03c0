"""What a job leaves running when it succeeds, on three hosts: named when it is ended, or given its time."""

from __future__ import annotations

import signal

import pytest
from counting import Start, let_go, recorded, state

from ugro.testing.commands import Ugro, document, until
from ugro.testing.testbed.bed import Testbed
from ugro.testing.testbed.machine import ProcessView

# Ends at once, and leaves an upload behind that is detached in every way, and ends when it is let go.
UPLOADS = """\
import os, subprocess, sys
home = os.path.expanduser("~/")
open(home + "upload.sh", "w").write('while [ ! -e ~/go ]; do sleep 0.05; done; echo done > ~/uploaded; exit 0')
if os.environ["RANK"] == "1":
    upload = ["setsid", "nohup", "sh", home + "upload.sh", "--token=secret"]
    subprocess.Popen(upload, stdin=-3, stdout=-3, stderr=-3, start_new_session=True)
sys.exit(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
"""

# Leaves a daemon behind that hides: orphaned, in a session of its own, without an environment.
HIDES = """\
import os, subprocess, sys
if os.environ["RANK"] == "1":
    subprocess.run(["setsid", "sh", "-c", "env -i sleep 4711 & exit"], stdin=-3, stdout=-3, stderr=-3)
sys.exit(int(sys.argv[1]))
"""


@pytest.fixture
def bed(bed: Testbed) -> Testbed:
    bed.master.write("project/uploads.py", UPLOADS)
    bed.master.write("project/hides.py", HIDES)
    return bed


def uploads(bed: Testbed) -> list[int]:
    return [process.pid for process in bed.gpu1.processes() if f"{bed.gpu1.home}/upload.sh" in process.command]


@pytest.mark.long
def test_what_is_ended_is_named(bed: Testbed, ugro: Ugro) -> None:
    made = document(ugro("launch", "uploads.py", "--json"))
    assert ugro("wait", made["id"]).returncode == 0
    assert not uploads(bed) and not bed.gpu1.path("uploaded").exists()
    (event,) = [event for event in document(ugro("events", made["id"], "--json")) if event["kind"] == "leftovers"]
    assert event["node"] == "gpu1"
    assert event["message"].startswith(f"ended what {made['id']} left running: sh upload.sh (pid ")
    shown = ugro("status", made["id"]).stdout
    assert "what it left running was ended: gpu1: sh upload.sh (pid " in shown and "secret" not in shown


@pytest.mark.long
def test_grace_lets_it_end_by_itself(bed: Testbed, start: Start, ugro: Ugro) -> None:
    made = document(ugro("launch", "uploads.py", "--grace", "10m", "--json"))
    waits = until(lambda: (ugro("sweep"), recorded(bed, made["id"])["reason"])[1])
    assert "it waits for gpu1: sh upload.sh (pid " in str(waits)
    assert state(ugro, made["id"]) == "running" and "sh upload.sh (pid " in ugro("status", made["id"]).stdout
    document(ugro("launch", "uploads.py", "--json", "--name", "next"))
    assert state(ugro, "next") == "queued", "its places stay taken"
    events = document(ugro("events", made["id"], "--json"))
    assert ugro("sweep").returncode == 0
    assert document(ugro("events", made["id"], "--json")) == events, "told once"
    with start("logs", "-f", made["id"]) as follower:
        assert follower.stderr
        assert f"{made['id']} waits: its ranks ended; until " in follower.stderr.readline()
        let_go(bed)
        follower.communicate(timeout=60)
    assert follower.returncode == 0 and bed.gpu1.path("uploaded").exists()
    ended = document(ugro("status", made["id"], "--json"))
    assert (ended["state"], ended["reason"], ended["grace"]) == ("succeeded", "", 600.0)
    assert ugro("cancel", "next").returncode == 0


@pytest.mark.long
@pytest.mark.parametrize("end", ["grace", "cancel", "fail"])
def test_what_outlasts_its_grace_or_is_not_wanted_is_ended(
    bed: Testbed, ugro: Ugro, end: str, request: pytest.FixtureRequest
) -> None:
    grace, code = ("3s", "0") if end == "grace" else ("1h", "3" if end == "fail" else "0")
    made = document(ugro("launch", "uploads.py", "--grace", grace, "--json", "--", code))
    if end == "cancel":
        until(lambda: (ugro("sweep"), recorded(bed, made["id"])["reason"])[1])
        assert ugro("cancel", made["id"]).returncode == 0
    assert ugro("wait", made["id"]).returncode == (1 if end == "fail" else 0)
    assert not uploads(bed) and not bed.gpu1.path("uploaded").exists()
    assert state(ugro, made["id"]) == ("failed" if end == "fail" else "succeeded")


def daemons(bed: Testbed) -> list[ProcessView]:
    return [process for process in bed.gpu1.processes() if process.command == ["sleep", "4711"]]


@pytest.mark.long
@pytest.mark.parametrize("code", [0, 3])
def test_a_daemon_that_hides_is_ended(bed: Testbed, ugro: Ugro, code: int) -> None:
    made = document(ugro("launch", "hides.py", "--json", "--", str(code)))
    assert ugro("wait", made["id"]).returncode == (1 if code else 0)
    assert not daemons(bed)
    events = document(ugro("events", made["id"], "--json"))
    if code:
        assert events[-1]["message"].startswith("no processes of it remain on ")
    else:
        named = [event["message"] for event in events if event["kind"] == "leftovers"]
        assert len(named) == 1 and named[0].startswith(f"ended what {made['id']} left running: sleep (pid ")
    assert "gpu1" in document(ugro("status", made["id"], "--json"))["gone_from"]


@pytest.mark.long
@pytest.mark.parametrize("killed", [False, True])
def test_only_what_is_proved_is_said(bed: Testbed, ugro: Ugro, killed: bool) -> None:
    made = document(ugro("launch", "hides.py", "--nodes", "gpu2,gpu1", "--grace", "1h", "--json", "--", "0"))
    waits = until(lambda: (ugro("sweep"), recorded(bed, made["id"])["reason"])[1])
    assert "it waits for gpu1: sleep (pid " in str(waits)
    assert [process.environ for process in daemons(bed)] == [{}]
    if killed:
        running = [process for process in bed.gpu1.processes() if "reaper.py" in " ".join(process.command[:3])]
        [reaper] = [process.pid for process in running]
        bed.gpu1.kill(reaper, signal.SIGCHLD)  # it notes at once whom it adopted
        until(bed.gpu1.path(".ugro/jobs/job-001/1/node-1/adopted").exists)
        bed.gpu1.kill(reaper, signal.SIGKILL)
    assert ugro("cancel", made["id"]).returncode == 0
    ended = document(ugro("status", made["id"], "--json"))
    assert ended["gone_from"] == (["gpu2"] if killed else ["gpu2", "gpu1"])
    assert not daemons(bed), "what was noted before is still known"
