"""The commands about waiting jobs, as they are typed, on a cluster of this machine alone."""

from __future__ import annotations

import json
import re
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from ugro.cli.main import cli
from ugro.common.config import NodeConfig
from ugro.common.job_spec import JobSpec
from ugro.common.models.drain import Drain
from ugro.common.models.job import Job, NodeShare, Placement
from ugro.common.models.job_state import JobState
from ugro.control_plane.controller.tick import Controller
from ugro.control_plane.metadata_store import MetadataStore
from ugro.testing import builders
from ugro.testing.cluster import Master


def test_shows_releases_and_reprioritizes_a_held_job(master: Master) -> None:
    said = master.ugro("launch", "t.py", "--hold", "--name", "later", "--priority", "3", "--not-before", "+2h").stdout
    assert said.startswith("Job held (ID: job-001): ") and "ugro release job-001" in said
    assert master.json("status", "later")["priority"] == 3
    reasons = master.json("why", "later")["reasons"]
    assert any("ugro release" in reason or "held" in reason for reason in reasons) and len(reasons) == 2
    assert master.json("release", "later")["state"] == "queued"
    assert "not before" in master.json("status", "later")["reason"]
    assert master.json("reprioritize", "later", "-5")["priority"] == -5
    assert master.json("hold", "later", "--reason", "for Ada")["reason"] == "held: for Ada"
    assert master.json("cancel", "later")["state"] == "cancelled"
    assert "only a job that waits" in master.ugro("hold", "later", code=2).stderr
    kinds = [event["kind"] for event in master.json("events", "later")]
    assert kinds == ["submitted", "released", "priority", "held", "cancel", "cancelled"]


def test_refuses_options_without_a_meaning(master: Master) -> None:
    for words, said in (
        (("--time", "0"), "--time: found '0': a duration longer than nothing"),
        (("--time", "soon"), "2h"),
        (("--not-before", "25:99"), "22:30"),
        (("--vram", "much"), "10G"),
        (("--after", "job-077"), "no job 'job-077'"),
        (("--priority", "5000"), "1000"),
    ):
        assert said in master.ugro("launch", "t.py", *words, code=2).stderr
    assert not list(master.home.glob("jobs/*"))
    assert "nodes are: here" in master.ugro("drain", "nowhere", "--reason", "x", code=2).stderr
    assert "reason is required" in master.ugro("drain", "here", code=2).stderr


def test_a_drained_node_is_shown_and_keeps_jobs_waiting(master: Master) -> None:
    master.ugro("drain", "here", "--reason", "new fan")
    assert master.json("nodes")[0]["drained"]["reason"] == "new fan"
    assert "drained: new fan" in master.ugro("nodes").stdout
    said = master.ugro("launch", "t.py").stdout
    assert "job-001" in said and "new fan" in said
    assert any("new fan" in reason for reason in master.json("why", "job-001")["reasons"])
    assert "gets jobs again" in master.ugro("undrain", "here").stdout


def test_says_when_a_job_for_later_starts(master: Master) -> None:
    said = master.ugro("launch", "t.py", "--not-before", "+2h").stdout
    assert "Job queued (ID: job-001). Starting in ~2 hours: starts ~" in said and ", as asked for" in said
    expected = master.json("why", "job-001")
    asked = master.json("status", "job-001")["not_before"]
    assert (expected["starts_at"], expected["never_starts"]) == (asked, False)
    assert ", as asked for" in master.json("status", "job-001")["reason"]


def test_reports_an_unschedulable_job_and_leaves_it_to_the_user(master: Master) -> None:
    master.ugro("launch", "t.py", "--hold", "--name", "first")
    master.ugro("cancel", "first")
    never = "is unschedulable: waits for job-001 to succeed, but it was cancelled; to start it: "
    assert f"Job queued (ID: job-002): it {never}" in master.ugro("launch", "t.py", "--after", "first").stdout
    assert master.json("launch", "t.py", "--after", "first")["never_starts"] is True
    master.ugro("cancel", "job-003")
    expected = master.json("why", "job-002")
    assert expected["reasons"][0].startswith(never) and expected["reasons"][0].endswith("ugro cancel job-002")
    assert (expected["never_starts"], expected["starts_at"], expected["state"]) == (True, None, "queued")
    assert master.ugro("why", "job-002").stdout.count("unschedulable") == 1
    shown = [master.json("status", "job-002"), master.json("status", "--state", "queued")["jobs"][0]]
    assert all(job["reason"].startswith(never) and job["state"] == "queued" for job in shown)
    master.describe("new")
    master.ugro("launch", "t.py", "--hold", "--nodes", "new")
    master.describe()
    first, *rest = master.json("why", "job-004")["reasons"]
    assert (
        "new is not in the inventory any more; to start it: add new to the inventory again" in first and len(rest) == 1
    )


def test_queues_a_job_for_an_unreachable_node_and_says_why(master: Master) -> None:
    gone = "  gone: {address: 127.0.0.1, port: 9}\n"
    master.describe(others=gone)
    why = r"gone is unreachable \(since [0-9:]{5}; 127\.0\.0\.1:9 refuses connections\)"
    told = why + "; it starts when it does; one with --nodes here could start now"
    assert re.search(rf"^Job queued \(ID: job-001\): {told}$", master.ugro("launch", "t.py").stdout, re.MULTILINE)
    made = master.json("launch", "t.py", "--nodes", "gone")
    assert made["state"] == "queued" and re.fullmatch(why + "; it starts when it does", made["reason"])
    assert (made["starts_at"], made["never_starts"]) == (None, False)
    assert re.search(rf"^job-001 is queued: {told}$", master.ugro("why", "job-001").stdout, re.MULTILINE)
    for document in (master.json("why", "job-002")["reasons"][0], master.json("status", "job-002")["reason"]):
        assert re.fullmatch(why, document)
    assert "the inventory has 2" in master.ugro("launch", "t.py", "--nodes", "3", code=2).stderr
    assert "gone2" in master.ugro("launch", "t.py", "--nodes", "gone2", code=2).stderr
    rehearsed = master.ugro("launch", "t.py", "--dry-run", code=3).stderr
    assert "gone: 127.0.0.1:9 refuses connections" in rehearsed and "a launch would be queued" in rehearsed
    assert len(master.json("status")["jobs"]) == 2


def test_status_shows_what_matters_and_the_rest_when_asked(master: Master) -> None:
    store, now = MetadataStore(master.home), time.time()
    for number in range(12):
        wish = JobSpec(script="t.py", name=f"n{number}", hold=True)
        job = store.jobs.submit(store.jobs.reserve(), wish, builders.CODE, now)
        if number < 11:
            store.jobs.save(
                job.model_copy(update={"state": JobState.CANCELLED, "ended_at": now + number}), "cancelled", ""
            )
    names = [job["name"] for job in master.json("status")["jobs"]]
    assert names == [f"n{number}" for number in range(1, 12)], "the last ten that ended, and what waits"
    assert len(master.json("status", "--all")["jobs"]) == 12
    older = "1 older job: ugro status --all"
    assert older in master.ugro("status").stdout and "older" not in master.ugro("status", "--all").stdout
    assert [job["name"] for job in master.json("status", "--name", "n1?")["jobs"]] == ["n10", "n11"]
    assert [job["name"] for job in master.json("status", "--state", "held")["jobs"]] == ["n11"]
    assert len(master.json("status", "--since", "1h")["jobs"]) == 12
    assert master.json("state", "rebuild") == {"live": 1, "ended": 11, "unreadable": [], "mended": []}


def test_asks_before_a_job_that_needs_too_much_memory(master: Master) -> None:
    with master.gpu():
        refused = master.ugro("launch", "t.py", "--hold", "--", "--model", "llama-7b", code=2)
        assert "does not train in" in refused.stderr and "--yes" in refused.stderr and "QLoRA" in refused.stderr
        accepted = master.ugro("launch", "t.py", "--hold", "--yes", "--", "--model", "llama-7b")
        assert "does not train in" in accepted.stderr
        assert master.json("status", "job-001")["predicted_mib"] > 100_000
        assert "no node can give that" in master.ugro("launch", "t.py", "--vram", "10G", code=2).stderr


def test_the_last_words_of_a_submission_are_the_next_commands(master: Master) -> None:
    master.ugro("launch", "t.py", "--hold", "--name", "first")
    said = master.ugro("launch", "t.py", "--after", "first").stdout
    assert "Job queued (ID: job-002): " in said
    for command in ("ugro why job-002", "ugro logs -f job-002", "ugro hold job-002", "ugro cancel job-002"):
        assert command in said


def test_an_unreadable_record_of_an_ended_job_is_named_and_the_rest_is_shown(master: Master) -> None:
    for _ in range(3):
        master.ugro("launch", "t.py", "--hold")
    for job in ("job-001", "job-002"):
        master.ugro("cancel", job)
    record = master.home / "jobs/job-002/job.json"
    record.write_text("")
    shown = master.json("status")
    assert [job["id"] for job in shown["jobs"]] == ["job-001", "job-003"]
    (broken,) = shown["unreadable"]
    assert (broken["id"], broken["file"]) == ("job-002", str(record))
    assert set(broken["error"]) == {"code", "message", "hint"}
    restore = f"cp {record}.before {record} && ugro state rebuild"
    for words in ("status",), ("status", "--all"), ("status", "--state", "cancelled"):
        last = master.ugro(*words).stdout.splitlines()[-1]
        assert last.startswith(f"job-002 is unreadable: {record} is not a valid record: it is empty; ")
        assert last.endswith(restore)
    assert "held" in master.ugro("why", "job-003").stdout
    refused = master.ugro("status", "job-002", code=4)
    assert str(record) in refused.stderr and restore in refused.stderr
    assert "indexed 1 live and 1 ended jobs" in master.ugro("state", "rebuild", code=4).stdout
    rebuilt = json.loads(master.ugro("state", "rebuild", "--json", code=4).stdout)
    assert rebuilt == {"live": 1, "ended": 1, "unreadable": [broken], "mended": []}
    master.ugro("sweep")


def test_a_job_that_waits_for_an_unreadable_one_waits_on(master: Master) -> None:
    master.ugro("launch", "t.py", "--hold")
    master.ugro("launch", "t.py", "--after", "job-001:any", "--hold")
    master.ugro("cancel", "job-001")
    record = master.home / "jobs/job-001/job.json"
    whole = record.read_text()
    record.write_text("{")
    master.ugro("release", "job-002")
    master.ugro("sweep")
    waits = [f"{record} cannot be read", "waits for job-001 to end"]
    assert master.json("why", "job-002")["reasons"][:2] == waits
    assert master.json("status", "job-002")["state"] == "queued"
    record.write_text(whole)
    assert not set(waits) & set(master.json("why", "job-002")["reasons"])


def test_starts_nothing_while_a_live_record_is_unreadable_but_shows_the_rest(master: Master) -> None:
    for _ in range(2):
        master.ugro("launch", "t.py", "--not-before", "+2h")
    record = master.home / "jobs/job-001/job.json"
    record.write_text("{")
    shown = master.json("status")
    assert [job["id"] for job in shown["jobs"]] == ["job-002"] and shown["nodes"]
    assert [broken["file"] for broken in shown["unreadable"]] == [str(record)]
    stopped = f"nothing starts while {record} cannot be read"
    assert shown["jobs"][0]["reason"].startswith(stopped)
    assert master.json("status", "job-002")["reason"].startswith(stopped)
    assert master.json("why", "job-002")["reasons"][0] == stopped
    for words in ("sweep",), ("launch", "t.py"), ("launch", "t.py", "--dry-run"), ("status", "job-001"):
        assert str(record) in master.ugro(*words, code=4).stderr
    assert [job["id"] for job in master.json("status")["jobs"]] == ["job-002"], "and nothing was submitted"
    master.ugro("reprioritize", "job-002", "3")
    assert master.json("status", "job-002")["priority"] == 3


def test_gc_keeps_a_fresh_temporary_file(master: Master) -> None:
    master.ugro("launch", "t.py", "--hold")
    fresh = master.home / "jobs/job-001/.tmp-job.json-x"
    fresh.touch()
    assert master.json("gc", "--delete")["temporary"] == []
    assert fresh.exists(), "another process may still be writing it"


def test_status_shows_what_was_asked_for(master: Master) -> None:
    asked = ("--time", "90m", "--time-warning", "10m", "--after", "plain:any", "--not-before", "2099-01-01T10:00")
    master.ugro("launch", "t.py", "--hold", "--name", "plain")
    master.ugro("launch", "t.py", "--hold", "--gpus-per-node", "0", "--priority", "4", *asked)
    keys = ("time_limit", "time_warning", "vram", "after", "not_before", "priority")
    plain, asking = (master.json("status", name) for name in ("plain", "job-002"))
    assert [plain[key] for key in keys] == [None, None, None, [], None, 0]
    assert [asking[key] for key in keys[:4]] == [5400, 600, None, ["job-001:any"]] and asking["priority"] == 4
    assert datetime.fromisoformat(asking["not_before"]) == datetime.fromisoformat("2099-01-01T10:00").astimezone(UTC)
    assert [job["time_limit"] for job in master.json("status")["jobs"]] == [None, 5400]
    text = " ".join(master.ugro("status", "job-002").stdout.split())
    for said in (
        "priority 4",
        "time limit 1h 30m, warned 10m 00s before",
        "after job-001:any",
        "not before 2099-01-01 10",
    ):
        assert said in text
    unasked = master.ugro("status", "plain").stdout
    assert not [word for word in ("priority", "time limit", "memory", "after", "not before") if word in unasked]
    (master.home / "jobs/job-002/spec.json").unlink()
    assert master.json("status", "job-002")["time_limit"] is None, "a job that lost its spec can still be looked at"


def test_memory_that_was_asked_for_is_shown(master: Master) -> None:
    with master.gpu():
        master.ugro("launch", "t.py", "--hold", "--vram", "6G")
        assert master.json("status", "job-001")["vram"] == 6144
        assert "6.0 GiB of each GPU" in master.ugro("status", "job-001").stdout


def test_notes_that_a_job_of_the_same_name_exists(master: Master) -> None:
    first = master.ugro("launch", "t.py", "--hold", "--name", "twin")
    assert "note:" not in first.stderr
    second = master.ugro("launch", "t.py", "--hold", "--name", "twin")
    said = "there is a job named twin already (job-001, held); use its ID to mean that one"
    assert f"note: {said}" in second.stderr and "job-002" in second.stdout
    third = master.ugro("launch", "t.py", "--hold", "--name", "twin", "--json")
    assert json.loads(third.stdout)["note"] == said.replace("job-001", "job-002") and third.stderr == ""
    assert master.json("launch", "t.py", "--hold")["note"] is None
    assert master.json("status", "twin")["id"] == "job-003"


def test_jobs_named_in_a_job_file_are_found_as_on_the_command_line(master: Master) -> None:
    master.ugro("launch", "t.py", "--hold", "--name", "first")
    master.ugro("launch", "t.py", "--hold", "--name", "second")
    (master.root / "job.yaml").write_text("script: t.py\nhold: true\nafter: [first, second:any, job-001]\n")
    master.ugro("launch", "job.yaml")
    assert master.json("status", "job-003")["after"] == ["job-001", "job-002:any"]
    master.ugro("launch", "job.yaml", "--after", "second", "--after", "job-002")
    assert master.json("status", "job-004")["after"] == ["job-002"], (
        "the command line wins; what is said twice counts once"
    )
    (master.root / "job.yaml").write_text("script: t.py\nafter: nosuch\n")
    assert "there is no job 'nosuch'" in master.ugro("launch", "job.yaml", code=2).stderr


def test_shows_states_in_words(master: Master) -> None:
    master.ugro("launch", "t.py", "--hold", "--name", "waits")
    assert "job-001 (waits) is held" in master.ugro("why", "waits").stdout
    master.ugro("cancel", "waits")
    assert "job-001 (waits) was cancelled" in master.ugro("why", "waits").stdout
    assert "job-001 (waits) was cancelled; only a job that waits" in master.ugro("hold", "waits", code=2).stderr


def test_refuses_events_of_an_unknown_node(master: Master) -> None:
    assert "the nodes known are: here" in master.ugro("events", "--node", "nosuch", code=2).stderr
    master.ugro("drain", "here", "--reason", "fan")
    inventory = master.root / "inventory.yaml"
    inventory.write_text(inventory.read_text().replace("here", "there"))
    assert [event["kind"] for event in master.json("events", "--node", "here")] == ["drained"]
    assert "the nodes known are: there, here" in master.ugro("events", "--node", "nosuch", code=2).stderr
    inventory.unlink()
    assert "drained" in master.ugro("events", "--node", "here").stdout, "no inventory is needed to look back"


def test_a_node_that_left_the_inventory_is_shown_as_departed(master: Master) -> None:
    master.ugro("launch", "t.py", "--hold")
    store = MetadataStore(master.home)
    store.config.remember_nodes([], [NodeConfig(name="gone", address="127.0.0.1", port=1)])
    share = NodeShare(node="gone", node_rank=0, first_rank=0, nproc=1)
    moved = {"state": JobState.RUNNING, "placement": Placement(shares=(share,))}
    builders.change(store, "job-001", "running", **moved)
    assert [(node["name"], node["departed"]) for node in master.json("nodes")] == [("here", False), ("gone", True)]
    store.config.drain(Drain(node="gone", reason="it is not in the inventory any more", since=1.0))
    here, gone = master.ugro("nodes").stdout.splitlines()[1:3]
    assert "departed" in gone and "drained" not in gone and "departed" not in here


def test_reports_a_failed_measurement_and_not_a_missing_gpu(master: Master) -> None:
    assert "no idle GPU" in master.ugro("measure").stdout
    with master.gpu():
        master.describe(keys="python: /bin/false")
        done = master.ugro("measure", code=3)
    assert "here: its speed cannot be measured" in done.stderr and "no idle GPU" not in done.stdout


def test_simulated_gpus_are_not_measured(master: Master) -> None:
    done = master.ugro("measure", code=2, UGRO_SANDBOX_DIR=str(master.root))
    assert "the sandbox's GPUs are simulated" in done.stderr


def test_a_second_resident_names_the_first_and_how_to_end_it(master: Master) -> None:
    with master.resident() as first:
        [process] = first.carried
        said = master.ugro("serve", code=4).stderr
        assert (
            "`ugro serve` runs already" in said and f"(pid {process.pid})" in said and f"`kill {process.pid}`" in said
        )
        assert "wait for it" not in said


def test_a_resident_tells_every_tick_that_changed_something_as_one_document(master: Master) -> None:
    with master.resident("--json", "--every", "0.2") as serving:
        assert serving.stdout
        kinds: list[str] = []
        master.ugro("launch", "t.py", "--hold")
        (master.home / "jobs/job-001/spec.json").write_text("{}")
        master.ugro("release", "job-001")
        while "failed" not in kinds:
            document = json.loads(serving.stdout.readline())
            assert document["schema_version"] == 1 and document["changes"]
            kinds += [event["kind"] for event in document["changes"]]


def test_reports_a_mistake_in_the_inventory_in_full_and_once(master: Master) -> None:
    with master.resident("--every", "0.2") as serving:
        assert serving.stdout
        assert "watching here" in serving.stdout.readline()
        (master.root / "inventory.yaml").write_text("nodes: {}\n")
        lines = iter(serving.stdout.readline, "")
        complaint = next(line for line in lines if "at least one node" in line)
        assert complaint.endswith("'nodes:'\n"), "no empty hint hangs on it"


def test_looking_at_a_job_without_logs_leaves_no_trace(master: Master) -> None:
    master.ugro("launch", "t.py", "--hold")
    share = NodeShare(node="here", node_rank=0, first_rank=0, nproc=1)
    moved = {"state": JobState.RUNNING, "placement": Placement(shares=(share,))}
    builders.change(MetadataStore(master.home), "job-001", "running", **moved)
    inventory = master.root / "inventory.yaml"
    inventory.write_text("nodes:\n  here: {address: 127.0.0.1, port: 1}\n")

    def files() -> set[Path]:
        return {path for path in master.home.rglob("*") if path.name != "__pycache__"}

    before = files()
    assert "missing here" in master.ugro("logs", "job-001").stderr
    assert files() == before


def test_tells_that_no_scheduler_is_running_where_a_start_is_promised(master: Master) -> None:
    said = "no scheduler is running"
    later = ("t.py", "--not-before", "+2h")
    assert said in master.ugro("launch", *later).stdout
    assert said in master.ugro("why", "job-001").stdout
    assert master.ugro("status").stdout.splitlines()[-1].startswith(said)
    assert said in master.ugro("status", "job-001").stdout
    assert [master.json(*words)["attended"] for words in (("launch", *later), ("why", "job-001"), ("status",))] == [
        False, False, False
    ]  # fmt: skip
    with master.resident():
        assert said not in master.ugro("launch", *later).stdout
        assert said not in master.ugro("why", "job-001").stdout + master.ugro("status").stdout
        assert [master.json(*words)["attended"] for words in (("why", "job-001"), ("status",))] == [True, True]


def test_promises_no_start_of_held_and_ended_jobs(master: Master) -> None:
    master.ugro("launch", "t.py", "--hold")
    for words in ("why", "job-001"), ("status",), ("status", "job-001"):
        assert "no scheduler" not in master.ugro(*words).stdout


def test_shows_a_cancel_under_way_and_a_reason_for_a_requested_end(master: Master) -> None:
    master.ugro("launch", "t.py", "--not-before", "+2h")
    store = MetadataStore(master.home)
    builders.cancel(store, "job-001")
    told = master.ugro("why", "job-001").stdout
    assert told.startswith("job-001 is being cancelled") and "cancel was requested" in told
    assert "is being cancelled" in master.ugro("hold", "job-001", code=2).stderr
    ended = master.ugro("wait", "job-001", code=1).stderr
    assert "job-001 cancelled: cancelled before it started" in ended
    builders.change(store, "job-001", "cancelled", reason="")
    assert "job-001 cancelled: as requested\n" in master.ugro("wait", "job-001", code=1).stderr


def test_a_job_that_the_look_shows_as_ended_holds_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its record says so only after the next tick; what explains the others must not contradict what is shown."""
    monkeypatch.setenv("UGRO_HOME", str(home / "state"))
    here = f"{{address: 127.0.0.1, local: true, base_dir: {home}/node}}"
    (home / "inventory.yaml").write_text(f"nodes:\n  here: {here}\n")
    store = MetadataStore(home / "state")
    for wish in (JobSpec(script="t.py"), JobSpec(script="t.py"), JobSpec(script="t.py", after=("job-001:failure",))):
        store.jobs.submit(store.jobs.reserve(), wish, builders.CODE, time.time())
    share = NodeShare(node="here", node_rank=0, first_rank=0, nproc=1)
    moved = {"state": JobState.RUNNING, "placement": Placement(shares=(share,))}
    builders.change(store, "job-001", "running", **moved)

    def shown() -> list[tuple[str, str]]:
        words = ["--inventory", str(home / "inventory.yaml"), "status", "--json"]
        done = CliRunner().invoke(cli, words, standalone_mode=False)
        assert done.exception is None, done.exception
        return [(job["state"], job["reason"]) for job in json.loads(done.stdout)["jobs"]]

    def looks(state: JobState) -> None:
        async def live(_: Controller, job: Job, *__: object) -> Job:
            return job.model_copy(update={"state": state}) if job.id == "job-001" else job

        monkeypatch.setattr(Controller, "live", live)

    looks(JobState.RUNNING)
    assert shown()[1] == ("queued", "here is held by job-001")
    looks(JobState.FAILED)
    (first, _), second, third = shown()
    assert (first, second) == ("failed", ("queued", "starts at the next scheduling pass"))
    assert third == ("queued", "here is held by job-002"), "what it waited for has failed"


def test_shows_a_reason_of_several_lines_in_one(master: Master) -> None:
    assert master.json("drain", "here", "--reason", "new fan\nand dust")["reason"] == "new fan and dust"
    master.ugro("launch", "t.py", "--hold")
    assert master.json("hold", "job-001", "--reason", "a\nb")["reason"] == "held: a b"


def test_several_are_taken_and_the_failure_of_one_stops_no_other(master: Master) -> None:
    (master.root / "t.py").write_text("import time; time.sleep(600)\n")
    for name in "abc":
        master.ugro("launch", "t.py", "--hold", "--name", name)
    held = master.ugro("hold", "a", "nosuch", "b", "--reason", "for Ada", code=2)
    assert held.stdout.count("is held") == 2 and "there is no job 'nosuch'" in held.stderr
    said = json.loads(master.ugro("release", "a", "nosuch", "b", "--json", code=2).stdout)
    assert [one.get("state") for one in said] == ["queued", None, "queued"]
    assert said[1]["name"] == "nosuch" and said[1]["error"]["code"] == "input"
    assert "is not held: it waits for its turn" in master.ugro("release", "a").stdout
    assert master.json("launch", "t.py", "--hold", "--name", "d", "--after", "a,b:any")["id"] == "job-004"
    assert master.json("status", "d")["after"] == ["job-001", "job-002:any"]
    ended = master.ugro("cancel", "c", "d", "nosuch", code=2)
    assert [line.split(";")[0] for line in ended.stdout.splitlines()] == [
        "job-003 is cancelled",
        "job-004 is cancelled",
    ]
    assert [one["state"] for one in json.loads(master.ugro("cancel", "c", "a", "--json").stdout)] == ["cancelled"] * 2
    master.ugro("cancel", "b")


def test_several_nodes_are_drained_and_come_back(master: Master) -> None:
    drained = master.ugro("drain", "here", "nowhere", "--reason", "new fan", code=2)
    assert "here gets no new jobs" in drained.stdout and "no node is called 'nowhere'" in drained.stderr
    assert "ugro drain here nowhere --reason" in master.ugro("drain", "here", "nowhere", code=2).stderr
    back = json.loads(master.ugro("undrain", "nowhere", "here", "--json", code=2).stdout)
    assert back[1] == {"node": "here", "drained": False} and back[0]["error"]["code"] == "input"
    assert master.json("undrain", "here") == {"node": "here", "drained": False}
