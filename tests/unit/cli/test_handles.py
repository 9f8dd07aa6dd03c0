"""Jobs as people name them, several at a time, run again and changed: as typed, on a cluster of this machine alone."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from ugro.cli.whence import as_called
from ugro.common.models.job_state import JobState
from ugro.common.models.proposal import Proposal
from ugro.control_plane.metadata_store import MetadataStore
from ugro.testing import builders
from ugro.testing.cluster import Master


def held(master: Master, *names: str) -> None:
    for name in names:
        master.ugro("launch", "t.py", "--hold", "--name", name, "-q")


def test_asks_before_it_acts_on_several_jobs_of_a_pattern(master: Master) -> None:
    held(master, "lr-1", "lr-2", "eval")
    refused = master.ugro("cancel", "lr-*", code=2).stderr
    assert "this is about 2 jobs: confirmation needed, but stdin is not a terminal" in refused
    assert "next:  use --yes: ugro cancel 'lr-*' --yes" in refused and "job-001  lr-1  held" in refused
    assert [job["state"] for job in master.json("status")["jobs"]] == ["held"] * 3
    released = master.json("reprioritize", "--yes", "lr-*", "7")
    assert [job["priority"] for job in released] == [7, 7]
    done = master.ugro("cancel", "lr-*", "--yes").stdout
    assert "job-001 is cancelled" in done and "job-002 is cancelled" in done
    assert [job["id"] for job in master.json("cancel", "--mine")] == ["job-003"], "one job needs no consent"
    none = master.ugro("cancel", "lr-*", code=2).stderr
    assert "`ugro cancel` accepts no job of 2 jobs like 'lr-*': cancelled" in none and "ugro status 'lr-*'" in none
    assert "job-001 was removed" in master.ugro("rm", "lr-*", "--yes").stdout


def test_answers_the_proposals_about_several_jobs(master: Master) -> None:
    held(master, "lr-1", "lr-2", "lr-3", "eval")
    decisions = MetadataStore(master.home).decisions
    for number in (1, 2, 4):
        decisions.propose(Proposal(job=f"job-00{number}", attempt=1, at=1.0, cause="killed", text="killed; again?"))
    refused = master.ugro("deny", "lr-*", code=2).stderr
    assert "job-002  lr-2  held: begin again" in refused and "job-003" not in refused
    assert "use --yes: ugro deny 'lr-*' --yes" in refused
    assert [one["job"] for one in master.json("deny", "lr-*", "--yes")] == ["job-001", "job-002"]
    none = master.ugro("approve", "lr-*", code=2).stderr
    assert "nothing is proposed about any of 3 jobs like 'lr-*'" in none and "`ugro proposals` lists" in none
    both = master.ugro("deny", "3", "eval", code=2)
    assert "nothing is proposed about job-003 (lr-3)" in both.stderr and "job-004 stays as it is" in both.stdout
    assert "nothing is proposed about any job" in master.ugro("approve", "--all", code=2).stderr


@pytest.mark.parametrize(
    ("words", "said", "hint"),
    [
        (("cancel",), "a JOB is expected: an id, a name, a pattern like 'lr-*', or --all", "ugro cancel --help"),
        (("cancel", "1", "--all"), "--all and --mine mean every job", "ugro cancel --help"),
        (("cancel", "x*"), "there is no job with an id or a name like 'x*'", "`ugro status --all` lists the jobs"),
        (("cancel", "--all"), "there are no jobs", "`ugro status --all` lists the jobs"),
        (("logs", "@last-failed"), "@last-failed names no job: none is failed", "ugro launch"),
        (("rm", "@other"), "'@other' names no job", "there are @last and @last-failed"),
        (("extend", "5"), "a JOB is expected", "ugro extend --help"),
        (("extend", "5", "1h"), "there is no job '5'", "ugro launch"),
        (("extend", "soon"), "a TIME is expected", "ugro extend --help"),
        (("rerun", "5", "--set", "lr"), "NAME=VALUE is expected", "--set lr=1e-3"),
        (("edit", "5"), "no change is named, and there is no terminal for an editor", "ugro edit JOB --nodes 2"),
        (("status", "--watch"), "--watch draws on a terminal", "ugro wait JOB"),
        (("rerun", "5", "-q", "--follow"), "--quiet prints the id alone", "ugro logs -f JOB"),
    ],
)
def test_refuses_what_names_no_job(master: Master, words: tuple[str, ...], said: str, hint: str) -> None:
    refused = master.ugro(*words, code=2).stderr
    assert said in refused and hint in refused


def test_takes_a_number_and_the_last_job_and_says_which_it_is(master: Master) -> None:
    held(master, "one", "two")
    assert master.json("status", "2")["name"] == "two" and master.json("why", "@last")["id"] == "job-002"
    shown = master.ugro("why")
    assert "note: @last is job-002 (two), held" in shown.stderr and "two" in shown.stdout
    assert master.ugro("status", "-q").stdout == "job-001\njob-002\n" == master.ugro("status", "1", "two", "-q").stdout
    assert [job["id"] for job in master.json("status", "t*")["jobs"]] == ["job-002"]
    master.ugro("launch", "t.py", "--hold", "--after", "@last", "--name", "three")
    assert "after: job-002 → job-001" in master.ugro("edit", "3", "--after", "1").stderr
    assert "one job is expected here" in master.ugro("logs", "*", code=2).stderr


def test_waits_no_longer_than_its_timeout(master: Master) -> None:
    held(master, "one")
    late = master.ugro("wait", "one", "--timeout", "0.2", code=6).stderr
    assert "job-001 (one) is held: it has not ended within" in late and "ugro wait job-001" in late
    error = json.loads(master.ugro("wait", "one", "--timeout", "0.2", "--json", code=6).stderr)["error"]
    assert error["code"] == "wait_timeout"
    master.ugro("cancel", "one")
    assert "cancelled before it started" in master.ugro("wait", "--timeout", "10m", code=1).stderr


def test_says_once_that_several_jobs_have_not_ended(master: Master) -> None:
    master.ugro("launch", "t.py", "--hold", "--sweep", "lr=1..3")
    late = master.ugro("wait", "sweep-001", "--timeout", "0.2", code=6).stderr
    assert late.splitlines()[-2:] == [
        "error: 3 of 3 jobs of sweep-001 have not ended within 0s: 3 held; they continue",
        "next:  to wait longer: ugro wait sweep-001",
    ]
    assert late.count("error:") == 1
    late = master.ugro("wait", "1", "t-*", "--timeout", "0.2", code=6).stderr
    assert "3 of 3 jobs have not ended" in late and "ugro wait 1 't-*'" in late
    listed = json.loads(master.ugro("wait", "t-*", "--timeout", "0.2", "--json", code=6).stdout)
    assert {one["error"]["code"] for one in listed} == {"wait_timeout"} and len(listed) == 3
    assert master.ugro("wait", "-q", "t-*", "--timeout", "0.2", code=6).stdout == ""


def test_waits_for_all_jobs_of_a_sweep_also_for_those_that_ended(master: Master) -> None:
    master.ugro("launch", "t.py", "--hold", "--sweep", "lr=1..2")
    master.ugro("cancel", "job-001")
    late = master.ugro("wait", "sweep-001", "--timeout", "0.2", code=6)
    assert "job-001" in late.stderr and "1 of 2 jobs of sweep-001 has not ended" in late.stderr
    master.ugro("cancel", "job-002")
    ended = json.loads(master.ugro("wait", "sweep-001", "--json", code=1).stdout)
    assert ["cancelled" in one["error"]["message"] for one in ended] == [True, True]


def test_explains_a_sweep_and_names_one_of_its_jobs(master: Master) -> None:
    master.ugro("launch", "t.py", "--hold", "--sweep", "lr=1..3", "--max-parallel", "1", "--", "--out", "o/{lr}")
    assert "  t.py --out o/{lr} --lr {lr}  " in master.ugro("status").stdout
    master.ugro("release", "1")
    shown = master.ugro("why", "sweep-001").stdout
    assert shown.startswith("sweep-001 (t): 3 jobs, 1 at a time: ") and "  - job-002, job-003: held" in shown
    assert "  ugro why job-00" in shown
    found = master.json("why", "sweep-001")
    assert found["max_parallel"] == 1 and found["jobs"][1]["values"] == {"lr": "2"}
    refused = master.ugro("logs", "sweep-001", code=2).stderr
    assert "one job is expected here, and 'sweep-001' means 3: job-00" in refused
    assert "next:  name one of them: ugro logs job-00" in refused and "ugro status sweep-001" in refused
    assert "there is no sweep 'sweep-009'" in master.ugro("why", "sweep-009", code=2).stderr


def test_suggests_the_job_of_a_sweep_that_failed(master: Master) -> None:
    master.ugro("launch", "t.py", "--hold", "--sweep", "lr=1..3")
    store = MetadataStore(master.home)
    for job, state in (("job-001", JobState.SUCCEEDED), ("job-002", JobState.SUCCEEDED), ("job-003", JobState.FAILED)):
        builders.change(store, job, state.value, state=state)
    refused = master.ugro("explain", "sweep-001", code=2).stderr
    assert "means 3: job-003 (failed), job-001 (succeeded)" in refused and "ugro explain job-003" in refused
    never = master.ugro("ls", "job-003", code=2).stderr
    assert "has not started" in never and "next:  see: ugro status job-003" in never


@pytest.mark.parametrize(("stdin", "given"), [("/dev/null", False), ("/dev/zero", True), (__file__, True)])
def test_passes_on_what_stdin_has(stdin: str, given: bool) -> None:
    says = "from ugro.cli.commands.enter import _has_input; print(_has_input())"
    with open(stdin) as file:
        done = subprocess.run([sys.executable, "-c", says], stdin=file, capture_output=True, text=True, check=True)
    assert done.stdout == f"{given}\n"


def test_names_itself_as_it_was_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["ugro"])
    monkeypatch.setenv("PATH", str(tmp_path))
    assert as_called() == "ugro", "no file of that name is there"
    called = tmp_path / "my bin" / "ugro"
    called.parent.mkdir()
    called.write_text("#!/bin/sh\n")
    called.chmod(0o755)
    monkeypatch.setattr(sys, "argv", [str(called)])
    assert as_called() == f"'{called}'"
    monkeypatch.setenv("PATH", str(called.parent))
    assert as_called() == "ugro"


def test_says_that_its_output_cannot_be_written() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "ugro", "--version"], stdout=full, stderr=-1, text=True)
    assert (done.returncode, done.stderr) == (2, "error: the output cannot be written: No space left on device\n")


def test_prints_ids_alone_of_jobs_that_it_ended_or_waited_for(master: Master) -> None:
    held(master, "one", "two")
    ended = master.ugro("cancel", "-q", "one", "@last")
    assert ended.stdout == "job-001\njob-002\n" and "note:" not in ended.stderr
    master.ugro("launch", "t.py", "-q")
    assert master.ugro("wait", "-q").stdout == "job-003\n"
    failed = master.ugro("wait", "-q", "3", "1", code=1)
    assert failed.stdout == "job-003\n" and "job-001 cancelled" in failed.stderr


def test_runs_a_job_again_and_edits_one_that_waits(master: Master) -> None:
    master.ugro("launch", "t.py", "--hold", "--name", "lr-1", "--time", "1h", "--", "--lr", "1")
    told = master.ugro("rerun", "lr-1", "--set", "lr=2", "--hold", "--time", "2h")
    assert told.stderr.splitlines()[:4] == [
        "like job-001 (lr-1), with the same code:",
        "  args: --lr 1 → --lr 2",
        "  name: lr-1 → lr-1-r2",
        "  time_limit: 1h → 2h",
    ]
    assert "Job held (ID: job-002)" in told.stdout
    again = json.loads(master.ugro("rerun", "2", "--hold", "--json", "--", "--epochs", "3").stdout)
    assert (again["rerun_of"], again["name"], again["changes"][0]["after"]) == ("job-002", "lr-1-r3", "--epochs 3")
    assert "--lr 2" in master.ugro("rerun", "2", "--dry-run").stdout and len(master.json("status")["jobs"]) == 3
    edited = master.ugro("edit", "@last", "--priority", "4", "--env", "A=1", "--")
    assert "job-003 (lr-1-r3) is changed: it is held" in edited.stdout and "  args: --epochs 3 →" in edited.stderr
    assert "nothing differs" in master.ugro("edit", "3", "--priority", "4").stdout
    assert master.json("events", "3")[-1]["kind"] == "edited"
    assert "--time: found 'soon'" in master.ugro("edit", "3", "--time", "soon", code=2).stderr
    master.ugro("cancel", "3")
    refused = master.ugro("edit", "3", "--priority", "1", code=2).stderr
    assert "only a job that waits can be edited" in refused and "ugro rerun job-003" in refused


def on_terminal(master: Master, answers: dict[str, str], *words: str, **env: str) -> tuple[int, str]:
    """Run `ugro` on a terminal, and type each answer once its question is there; return its exit code and output."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(master.root)
        os.execve(sys.executable, [sys.executable, "-m", "ugro", *words], master.env | env)
    shown, left = "", dict(answers)
    while True:
        try:
            shown += os.read(terminal, 4096).decode(errors="replace")
        except OSError:  # the other side is closed
            break
        for question in [question for question in left if question in shown]:
            os.write(terminal, left.pop(question).encode())
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown


@pytest.mark.long
def test_opens_an_editor_and_asks_before_it_changes_the_job(master: Master, tmp_path: Path) -> None:
    master.ugro("launch", "t.py", "--hold", "--time", "1h", "--", "--lr", "1")
    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\nsed -i -e \"s/'1'/'2'/\" -e /^time_limit/d \"$1\"\n")
    editor.chmod(0o755)
    code, shown = on_terminal(master, {"Change job-001 so?": "y\n"}, "edit", "1", EDITOR=str(editor), VISUAL="")
    assert code == 0 and "time_limit: 1h → default" in shown and "job-001 is changed" in shown
    assert master.json("status", "1")["command"] == ["t.py", "--lr", "2"]
    code, shown = on_terminal(master, {}, "edit", "1", EDITOR="true", VISUAL="")
    assert code == 5 and "stays as it is: the file was not changed" in shown
    editor.write_text('#!/bin/sh\necho "prioritee: 3" >> "$1"\n')
    code, shown = on_terminal(master, {"Edit it again?": "n\n"}, "edit", "1", EDITOR=str(editor), VISUAL="")
    assert code == 2 and "job.yaml:" in shown and "prioritee" in shown
    assert len(master.json("events", "1")) == 2


@pytest.mark.long
def test_draws_the_status_again_until_the_job_has_ended(master: Master) -> None:
    held(master, "one")
    master.ugro("cancel", "one")
    code, shown = on_terminal(master, {}, "status", "one", "-w")
    assert code == 0 and "(Ctrl-C ends this view)" in shown and shown.count("cancelled") >= 2
    held(master, "two")
    code, shown = on_terminal(master, {"two": "\x03"}, "status", "-w")
    assert code == 0 and "Traceback" not in shown
