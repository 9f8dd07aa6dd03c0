"""Whole jobs on the sandbox: real SSH, real torchrun, real gloo."""

from __future__ import annotations

import json
import os
import signal
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cluster import SCRIPTS, exits, ranks_that_say

from ugro.sandbox.cluster import Sandbox
from ugro.testing.commands import Ugro, document, until
from ugro.testing.testbed.machine import Begun

CLUSTER = NODES = ("gpu-master", "gpu1")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    for name, text in SCRIPTS.items():
        (folder / name).write_text(text)
    return folder


def members(sandbox: Sandbox, job_id: str) -> list[str]:
    """Command lines of everything that carries the job in its environment, in this sandbox."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environ = (folder / "environ").read_bytes().split(b"\0")
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if f"UGRO_JOB={job_id}".encode() in environ and f"UGRO_SANDBOX={sandbox.root}".encode() in environ:
            found.append(command)
    return found


def test_a_job_for_a_node_that_does_not_answer_starts_when_it_does(ugro: Ugro, begun: Begun, sandbox: Sandbox) -> None:
    sandbox.unplug("gpu1")
    with begun("launch", "brief.py", "--follow") as following:
        assert following.stdout and following.stderr
        told = following.stdout.readline()
        assert told.startswith("Job queued (ID: job-001): gpu1 is unreachable (since ")
        assert told.endswith("; it starts when it does; one with --nodes gpu-master could start now\n")
        waits = next(line for line in following.stderr if " waits: " in line)
        assert waits.startswith("job-001 waits: gpu1 is unreachable (since ")
        assert document(ugro("why", "job-001", "--json"))["reasons"][0].startswith("gpu1 is unreachable (since ")
        sandbox.unplug()
        said, _ = following.communicate(timeout=120)
    assert following.returncode == 0 and "job-001 succeeded" in said


def test_a_job_from_launch_to_its_record(ugro: Ugro, sandbox: Sandbox) -> None:
    args = ["a b", "$(touch pwned)", "it's", 'say "x"', "new\nline", "--name", "../.."]
    made = document(ugro("launch", "fine.py", "--name", "first", "--json", "--", *args))
    assert {"id", "name", "state", "note"} <= set(made) and (made["name"], made["state"]) == ("first", "running")
    job = document(ugro("wait", "first", "--json"))
    assert job["state"] == "succeeded" and job["first_failure"] is None
    assert job["command"] == ["fine.py", *args] and job["nodes"] == list(NODES)
    assert exits(job) == [(rank, node, 0, None) for rank, node in enumerate(NODES)]
    assert all(rank["state"] == "succeeded" and rank["pid"] and rank["gpu"].startswith("GPU-") for rank in job["ranks"])
    assert job == document(ugro("status", made["id"], "--json")), "the record is what was shown"
    lines = document(ugro("logs", "first", "--json"))
    for rank in range(2):
        assert [line["text"] for line in lines if line["rank"] == rank] == [
            f"rank {rank} of 2 {args!r}",
            f"café {rank}",
        ]
    assert not list(sandbox.root.rglob("pwned"))
    assert members(sandbox, made["id"]) == []


@pytest.mark.parametrize(
    ("script", "how", "cause"), [("exit3.py", (3, None), "unknown"), ("killed.py", (None, "KILL"), "killed")]
)
def test_the_rank_that_failed_first_is_named(
    ugro: Ugro, sandbox: Sandbox, script: str, how: tuple[int | None, str | None], cause: str
) -> None:
    done = ugro("launch", script, "--name", script, "--follow")
    assert done.returncode == 1, done.stderr
    job = document(ugro("status", script, "--json"))
    assert job["state"] == "failed"
    failure = job["first_failure"]
    assert (failure["rank"], failure["node"], failure["cause"]) == (1, "gpu1", cause)
    assert (failure["exit_code"], failure["signal"]) == how
    assert exits(job)[1][2:] == how
    waited = ugro("wait", script)
    assert waited.returncode == 1 and "rank 1 on gpu1 failed first" in waited.stderr
    assert members(sandbox, job["id"]) == []


@pytest.mark.long
def test_explain_tells_the_step_the_last_checkpoint_and_how_to_go_on(ugro: Ugro, project: Path) -> None:
    (project / "saves.py").write_text(
        "import os, sys, time, zipfile\n"
        "if os.environ['RANK'] == '0':\n"
        "    os.makedirs('out', exist_ok=True)\n"
        "    with zipfile.ZipFile('out/checkpoint-70.pt', 'w') as file: file.writestr('archive/data.pkl', 'x' * 1000)\n"
        "if os.environ['RANK'] == '1':\n"
        "    print('step 75 / 100 loss 2.1', flush=True)\n"
        "    sys.exit('RuntimeError: CUDA out of memory. Tried to allocate 2.00 GiB')\n"
        "time.sleep(600)\n"
    )
    words = ("--nodes", "2", "--name", "saves", "--follow", "--", "--batch-size", "8")
    assert ugro("launch", "saves.py", *words).returncode == 1
    found = document(ugro("explain", "saves", "--json"))
    assert (found["cause"], found["rank"], found["node"], found["step"]) == ("cuda_oom", 1, "gpu1", 75)
    last = found["last_checkpoint"]
    assert (last["step"], last["name"], last["on_master"]) == (70, "out/checkpoint-70.pt", False)
    assert "gpu-master" in last["nodes"] and found["not_asked"] == [] and 0 <= found["lost_seconds"] < 60
    assert found["resume"] == f"ugro resume {found['job']} --set batch-size=4"
    said = ugro("explain", "saves").stdout
    assert "step  75 of 100" in said and "last checkpoint 70 (out/checkpoint-70.pt, saved" in said
    assert f"resume: {found['resume']}   (--batch-size 8 → 4)" in said


@pytest.mark.long
def test_cancel_leaves_nothing(ugro: Ugro, begun: Begun, sandbox: Sandbox) -> None:
    made = document(ugro("launch", "stubborn.py", "--json"))
    until(ranks_that_say(ugro, made["id"], "ready", ranks=2))
    assert sum("sleep 7771" in command for command in members(sandbox, made["id"])) == 2
    busy = document(ugro("launch", "brief.py", "--name", "next", "--json"))
    assert busy["state"] == "queued"
    waiting = document(ugro("status", "next", "--json"))
    assert all(f"{node} is held by {made['id']}" in waiting["reason"] for node in NODES)
    with begun("cancel", made["id"]) as cancelling:
        until(lambda: document(ugro("status", made["id"], "--json"))["stopping"])
        reasons = document(ugro("why", "next", "--json"))["reasons"]
        assert all(f"{node} is held by {made['id']} (stopping)" in reasons for node in NODES)
        assert f"when {made['id']}, which is stopping, frees " in ugro("why", "next").stdout.splitlines()[0]
        said, beside = cancelling.communicate(timeout=90)
    assert cancelling.returncode == 0 and "no processes of it remain on " in said
    assert beside == f"{made['id']} is stopping: cancel was requested; SIGTERM, after 10 s SIGKILL\n"
    job = document(ugro("status", made["id"], "--json"))
    assert job["state"] == "cancelled" and [rank["signal"] for rank in job["ranks"]] == ["KILL"] * 2
    assert members(sandbox, made["id"]) == []
    assert document(ugro("wait", "next", "--json"))["state"] == "succeeded", "what waited has its turn"
    assert "had already ended: cancelled" in ugro("cancel", made["id"]).stdout


@pytest.mark.long
def test_a_job_outlives_the_limit_it_was_launched_with(ugro: Ugro, sandbox: Sandbox) -> None:
    made = document(ugro("launch", "quiet.py", "--time", "20s", "--json"))
    until(ranks_that_say(ugro, made["id"], "ready", ranks=2))
    sandbox.unplug("gpu1")
    extended = ugro("extend", made["id"], "1h", "--json")
    job = document(extended)
    assert (job["time_limit"], job["time_limit_before"], job["told"]) == (3620, 20, ["gpu-master"])
    assert [one["node"] for one in job["pending"]] == ["gpu1"] and job["pending"][0]["reason"]
    sandbox.unplug()
    told = until(lambda: ugro("sweep") and [one for one in _extended(ugro, made["id"]) if one["node"] == "gpu1"])
    assert told[0]["message"] == "gpu1 lets it run for 1h 00m"
    assert document(ugro("extend", made["id"], "--to", "2h", "--json"))["told"] == ["gpu-master", "gpu1"]
    begun = datetime.fromisoformat(job["started_at"])
    until(lambda: (datetime.now(UTC) - begun).total_seconds() > 23)
    job = document(ugro("status", made["id"], "--json"))
    assert job["state"] == "running" and {rank["limit"] for rank in job["ranks"]} == {None}
    assert ugro("cancel", made["id"]).returncode == 0
    over = ugro("extend", made["id"], "1h")
    assert over.returncode == 2 and f"ugro resume {made['id']} --time 10800s" in over.stderr


def _extended(ugro: Ugro, job_id: str) -> list[dict[str, Any]]:
    return [event for event in document(ugro("events", job_id, "--json")) if event["kind"] == "extended"]


@pytest.mark.long
def test_killing_the_follower_leaves_the_job_and_logs_go_on(ugro: Ugro, begun: Begun, sandbox: Sandbox) -> None:
    follower = begun("launch", "late.py", "--name", "late", "--follow")
    assert follower.stdout
    heard = 0
    for line in follower.stdout:
        heard += "line 1" in line
        if heard == 2:
            break
    follower.send_signal(signal.SIGKILL)
    follower.communicate()
    assert document(ugro("status", "late", "--json"))["state"] == "running"
    for node in NODES:
        (sandbox.root / "home" / node / "go").touch()
    done = ugro("logs", "-f", "late")
    assert done.returncode == 0, done.stderr
    for rank in range(2):
        mine = [line for line in done.stdout.splitlines() if line.startswith(f"[rank {rank}] {rank}")]
        assert mine == [f"[rank {rank}] {rank} line 1", f"[rank {rank}] {rank} line 2"]
    assert document(ugro("status", "late", "--json"))["state"] == "succeeded"
    for node in NODES:
        (sandbox.root / "home" / node / "go").unlink()


@pytest.mark.long
def test_the_owners_form_and_the_job_file(ugro: Ugro, project: Path, tmp_path: Path) -> None:
    (tmp_path / "train_production.py").write_text("import sys; print(sys.argv[1:])\n")
    done = ugro(
        "launch", "--model", "llama-7b", "--dataset", "wikitext", "--epochs", "3", "--name", "test-run-1",
        "--nodes", "1", "--yes", "--json", cwd=tmp_path,
    )  # fmt: skip
    assert document(done)["name"] == "test-run-1"
    assert document(ugro("wait", "test-run-1", "--json"))["state"] == "succeeded"
    assert "['--model', 'llama-7b', '--dataset', 'wikitext', '--epochs', '3']" in ugro("logs", "test-run-1").stdout
    (tmp_path / "job.yaml").write_text("script: train_production.py\nargs: [--lr, 1e-4]\nnodes: gpu1\nenv: {N: '1'}\n")
    job = document(ugro("launch", "job.yaml", "--json", "--", "--more", cwd=tmp_path))
    assert document(ugro("wait", job["id"], "--json"))["nodes"] == ["gpu1"]
    assert "['--lr', '1e-4', '--more']" in ugro("logs", job["id"]).stdout


def test_a_dry_run_starts_nothing_and_says_all(ugro: Ugro) -> None:
    before = document(ugro("status", "--json"))["jobs"]
    shown = document(ugro("launch", "fine.py", "--dry-run", "--json", "--", "a b"))
    assert [part["node"] for part in shown] == list(NODES)
    for rank, part in enumerate(shown):
        assert f"--nnodes=2 --node-rank={rank} --nproc-per-node=1" in part["launch_sh"]
        assert "fine.py 'a b'" in part["launch_sh"] and "CUDA_VISIBLE_DEVICES=GPU-" in part["launch_sh"]
    assert document(ugro("status", "--json"))["jobs"] == before


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["launch", "none.py"], "there is no script 'none.py'"),
        (["launch", "fine.py", "--nodes", "gpu7"], "no node is called 'gpu7'"),
        (["launch", "fine.py", "--nodes", "4"], "4 nodes are requested"),
        (["launch", "fine.py", "--gpus-per-node", "2"], "requested: 2 GPUs on each of 2 nodes; no node can give that"),
        (["launch", "fine.py", "--name", "job-001"], "are ids"),
        (["logs", "job-999"], "there is no job 'job-999'"),
        (["logs", "first", "--rank", "3"], "has no rank 3"),
        (["run", "--on", "gpu7", "--", "true"], "no node is called"),
        (["trust", "gpu7"], "no node is called"),
    ],
)
def test_mistakes(ugro: Ugro, args: list[str], said: str) -> None:
    done = ugro(*args)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr


def test_the_same_command_everywhere(ugro: Ugro) -> None:
    done = ugro("run", "--", 'echo "$HOME"; [ "$UGRO_SANDBOX_NODE" = gpu1 ] && exit 7; exit 0')
    assert done.returncode == 7
    assert sorted(line.split(" | ")[0].strip() for line in done.stdout.splitlines()) == list(NODES)
    literal = ugro("run", "--json", "--on", "gpu-master", "--", "printf", "%s|", "$HOME", "a b")
    assert [(answer["node"], answer["stdout"]) for answer in document(literal)] == [("gpu-master", "$HOME|a b|")]


def test_a_command_ends_with_its_client_and_what_it_left_running_stays(ugro: Ugro, begun: Begun) -> None:
    left = ugro("run", "--on", "gpu1", "--", "sleep 300 >/dev/null 2>&1 & echo $!").stdout.split()[-1]
    with begun("run", "--", "echo $$; sleep 300 & sleep 300") as client:
        assert client.stdout
        groups = [int(client.stdout.readline().split()[-1]) for _ in NODES]
        client.kill()
        until(lambda: not any(map(group_lives, groups)))
    os.kill(int(left), signal.SIGTERM)


def group_lives(group: int) -> bool:
    with suppress(ProcessLookupError):
        os.killpg(group, 0)
        return True
    return False


def test_the_machines_as_json(ugro: Ugro) -> None:
    nodes = document(ugro("nodes", "--json"))
    assert [node["name"] for node in nodes] == list(NODES)
    gpu = nodes[0]["gpus"][0]
    keys = "index uuid name memory_total_mib memory_used_mib utilization_percent temperature_c power_w processes"
    assert set(keys.split()) <= set(gpu) and "5070 Ti" in gpu["name"]
    assert "RTX 4070" in ugro("nodes").stdout


def test_looking_changes_no_record_and_a_sweep_is_quiet(ugro: Ugro, sandbox: Sandbox) -> None:
    def records() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in (sandbox.root / "state/jobs").glob("*/*.json*")}

    before = records()
    for look in (["status"], ["nodes"], ["status", "first"], ["logs", "first"]):
        assert ugro(*look).returncode == 0
    assert records() == before
    done = ugro("sweep")
    assert (done.returncode, done.stdout) == (0, "")
    assert json.loads(ugro("sweep", "--json").stdout)["changes"] == []
    assert records() == before


@pytest.mark.long
def test_what_each_gpu_did_is_kept_and_shown(ugro: Ugro, sandbox: Sandbox) -> None:
    made = document(ugro("launch", "quiet.py", "--yes", "--json"))
    until(ranks_that_say(ugro, made["id"], "ready", ranks=2))
    kept = sorted((sandbox.root / "state/history").glob("*/looks.jsonl"))
    assert [path.parent.name for path in kept] == sorted(NODES)
    for path in kept:  # the last look is long ago
        looks = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(one | {"at": one["at"] - 120.0}) + "\n" for one in looks))
    assert ugro("sweep").returncode == 0
    before = {path: path.read_bytes() for path in kept}
    past = document(ugro("history", "--json"))
    assert [(gpu["node"], gpu["index"]) for gpu in past] == [(node, 0) for node in NODES]
    for gpu in past:
        idle, busy = gpu["samples"][0], gpu["samples"][-1]
        assert (idle["job"], busy["job"]) == (None, made["id"])
        assert busy["temperature_c"] and busy["memory_total_mib"] > 8000 and busy["at"].endswith("+00:00")
    said = ugro("history", "gpu1", "--since", "1h").stdout.splitlines()
    assert len(said) == 3 and said[2].startswith("gpu1 ") and made["id"] in said[2] and "RTX 4070" in said[2]
    assert "nope" in ugro("history", "nope").stderr
    assert {path: path.read_bytes() for path in kept} == before, "looking writes nothing"
    assert ugro("cancel", made["id"]).returncode == 0


@pytest.mark.long
def test_a_module_and_a_program_run_as_under_torchrun(ugro: Ugro, project: Path) -> None:
    (project / "pkg").mkdir()
    (project / "pkg/__init__.py").write_text("word = 'café'\n")
    (project / "pkg/train.py").write_text("from . import word\nprint(word, __name__)\n")
    (project / "train.sh").write_text("#!/bin/sh\nexec python3 -c \"print('rank $RANK of $WORLD_SIZE: $1')\"\n")
    (project / "train.sh").chmod(0o755)
    module = document(ugro("launch", "-m", "pkg.train", "--nodes", "1", "--yes", "--json", "--", "--n", "1"))
    ended = document(ugro("wait", module["id"], "--json"))
    assert (ended["state"], ended["command"]) == ("succeeded", ["-m", "pkg.train", "--n", "1"])
    assert [line["text"] for line in document(ugro("logs", module["id"], "--json"))].count("café __main__") == 1
    (project / "job.yaml").write_text("script: ./train.sh\nno_python: true\nargs: [a b]\nnodes: 1\n")
    program = document(ugro("launch", "job.yaml", "--yes", "--json"))
    assert document(ugro("wait", program["id"], "--json"))["command"] == ["--no-python", "./train.sh", "a b"]
    again = document(ugro("resume", program["id"], "--from", "0", "--yes", "--json"))
    assert again["command"] == ["--no-python", "./train.sh", "a b"]
    assert document(ugro("wait", again["id"], "--json"))["state"] == "succeeded"
    assert "rank 0 of 1: a b" in ugro("logs", again["id"]).stdout


def test_what_a_job_that_succeeded_left_running_is_named(ugro: Ugro, project: Path) -> None:
    background = "subprocess.Popen(['nohup', 'sleep', '7773'], stdout=-3) if rank == 0 else None\n"
    (project / "leaves.py").write_text("import os, subprocess\nrank = int(os.environ['RANK'])\n" + background)
    made = document(ugro("launch", "leaves.py", "--nodes", "1", "--grace", "1s", "--yes", "--json"))
    ended = document(ugro("wait", made["id"], "--json"))
    assert ended["state"] == "succeeded"
    assert ended["reason"].startswith("what it left running was ended: gpu-master: sleep (pid ")
