"""The command line without a cluster: help, mistakes, and what they end with."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from places import DOCS, ROOT

from ugro.cli.main import CLEAN, COMMANDS, OF_A_JOB, OF_A_NODE, SUBJECTS, cli
from ugro.common.errors import InputError
from ugro.common.inventory_file import load_inventory
from ugro.common.job_spec import JobSpec
from ugro.common.models.job_state import JobState
from ugro.control_plane.metadata_store import MetadataStore
from ugro.control_plane.metadata_store.job_registry import JobRegistry
from ugro.service.context import Context
from ugro.service.inventory import draft, hosts_of_ssh_config, is_sample, own_python, parse_host, write_inventory
from ugro.service.serving import Serving
from ugro.testing import builders
from ugro.testing.commands import Ugro


@pytest.fixture
def ugro(forked: Ugro) -> Ugro:
    def run(*args: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return forked(*args, cwd=cwd or os.getcwd(), env=os.environ | (env or {}))

    return run


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(ugro: Ugro, command: str) -> None:
    done = ugro(command, "--help")
    assert done.returncode == 0 and done.stdout.startswith("Usage: ugro " + command)


@pytest.mark.parametrize(("command", "text"), [(name, text) for name, (_, _, text) in COMMANDS.items()])
def test_lists_each_command_with_the_first_line_of_its_own_help(command: str, text: str) -> None:
    found = cli.get_command(click.Context(cli), command)
    assert found and (found.help or "").split("\n\n")[0] == text


def test_help_is_no_wider_than_a_terminal_of_80_columns() -> None:
    def wide(command: click.Command, context: click.Context) -> Iterator[str]:
        context.terminal_width = 80
        yield from (line for line in command.get_help(context).splitlines() if len(line) > 80)
        if isinstance(command, click.Group):
            for name in command.list_commands(context):
                below = command.get_command(context, name)
                assert below
                yield from wide(below, click.Context(below, parent=context, info_name=name))

    assert list(wide(cli, click.Context(cli, info_name="ugro"))) == []


def commands(group: click.Group, path: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, with all words of its name."""
    ctx = click.Context(group)
    for name in group.list_commands(ctx):
        found = group.get_command(ctx, name)
        assert found
        if isinstance(found, click.Group):
            yield from commands(found, f"{path}{name} ")
        else:
            yield path + name, found


def test_every_command_has_json_but_for_those_that_the_page_about_scripts_names() -> None:
    without = {name for name, found in commands(cli) if "as_json" not in {param.name for param in found.params}}
    sandbox = {"sandbox up", "sandbox down", "sandbox env"}
    assert without == {"report", "job report", "init", "trust", "node trust", "completion", "help", "ssh"} | sandbox
    assert (
        "`report`, `init`, `trust`, `completion`, `help`, `ssh`, `sandbox up/down/env`"
        in (DOCS / "scripting.md").read_text()
    )
    documents = (DOCS / "reference/json.md").read_text()
    also = {f"job {name}" for name in OF_A_JOB} | {f"node {name}" for name in (*OF_A_NODE, "list")}
    for name in {name for name, _ in commands(cli)} - without - also:
        assert f"| `ugro {name}` |" in documents


def test_lists_each_command_under_one_heading(ugro: Ugro) -> None:
    listed = [name for names in SUBJECTS.values() for name in names]
    assert sorted(listed) == sorted(COMMANDS)
    assert re.findall(r"^([A-Z][\w-]+):$", ugro("--help").stdout, re.MULTILINE) == ["Options", *SUBJECTS]


def test_groups_have_the_same_commands_with_the_same_help(ugro: Ugro) -> None:
    for path, name in [("job", "why"), ("node", "drain")]:
        group = cli.get_command(click.Context(cli), path)
        assert isinstance(group, click.Group)
        assert group.get_command(click.Context(group), name) is cli.get_command(click.Context(cli), name)
        assert f"{name} " in ugro(path, "--help").stdout and COMMANDS[name][2] in ugro(path, "--help").stdout
    assert ugro("node", "drain", "--help").stdout.startswith("Usage: ugro node drain")
    assert CLEAN[2] in ugro("node", "--help").stdout and CLEAN[2] in ugro("node", "clean", "--help").stdout
    said = ugro("node", "drian")
    assert said.returncode == 2 and "did you mean `ugro node drain`" in said.stderr


def test_help_imports_only_what_it_needs() -> None:
    code = (
        "import sys, ugro.cli.main; print([m for m in ('asyncio', 'rich', 'pydantic', 'asyncssh') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_a_mistyped_command_is_answered_with_the_near_one(ugro: Ugro) -> None:
    done = ugro("statsu")
    assert done.returncode == 2 and "did you mean `ugro status`" in done.stderr


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["status"], "there is no inventory"),
        (["nodes", "--frobnicate"], "No such option"),
        (["logs"], "@last names no job: there are none"),
        (["status", "job-001"], "there is no job 'job-001'"),
        (["cancel", "$(touch x)"], "there is no job '$(touch x)'"),
        (["launch"], "there is no inventory"),
        (["launch", "train.py", "--epochs", "3"], "'--epochs' is not an option of `ugro launch`"),
        (["launch", "train.py", "--name", "../x"], "--name: found '../x'"),
        (["launch", "train.py", "--nodes", "gpu1,gpu1"], "a node is named twice"),
        (["launch", "train.py", "--nodes", "gpu1,"], "a number of nodes, or their names, is expected"),
        (["launch", "../train.py"], "a path inside the working directory"),
        (["launch", "job.yaml"], "job.yaml: cannot be read"),
        (["logs", "job-001", "--tail", "-1"], "found '-1': a whole number of at least 0 is expected"),
        (["launch", "train.py", "--priority", "1e400"], "found '1e400': a whole number from -1000 to 1000 is expected"),
        (["launch", "train.py", "--priority", "9" * 5000], "a whole number from -1000 to 1000 is expected"),
        (
            ["launch", "train.py", "--time", "99999999999h"],
            "--time: found '99999999999h': a duration of at most 10000d",
        ),
        (["launch", "train.py", "--vram", "1e400G"], "--vram: found '1e400G': a size like 512M or 10G is expected"),
        (["launch", "train.py", "--vram", "10"], "--vram: no training fits into 10 MiB; did you mean 10G?"),
        (["launch", "train.py", "--nmae", "x"], "did you mean --name? Else put the script's arguments after --"),
        (["launch", "train.py", "--prio=3"], "did you mean --priority? Else"),
        (["estimate", "--model", "7b", "--batch", "9" * 21], "a whole number from 1 to 9999999 is expected"),
        (["estimate", "--model", "7b", "--seq", "10000000"], "a whole number from 1 to 9999999 is expected"),
        (["estimate", "--model", "7b", "--gpus", "10000000"], "a whole number from 1 to 9999999 is expected"),
        (["init", "--no-contact", "--output", "/proc/x"], "/proc/x cannot be written: No such file or directory"),
        (["check", "--gpu", "--capture", "/proc/x"], "/proc/x cannot be made: No such file or directory"),
        (["--inventory", "no.yaml", "nodes"], "there is no inventory at no.yaml"),
    ],
)
def test_mistakes_end_with_one_line_and_exit_code_2(ugro: Ugro, home: Path, args: list[str], said: str) -> None:
    done = ugro(*args, cwd=home)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[0].startswith("error: ")


def test_an_option_without_its_argument_is_hinted_at_its_own_help(ugro: Ugro, home: Path) -> None:
    done = ugro("launch", "train.py", "--name", cwd=home)
    assert done.returncode == 2 and "'--name' requires an argument" in done.stderr
    assert "see: ugro launch --help" in done.stderr


def test_json_may_stand_before_the_command(ugro: Ugro, home: Path) -> None:
    (home / "inventory.yaml").write_text("nodes:\n  here: {address: 127.0.0.1, local: true}\n")
    done = ugro("--json", "--inventory", "inventory.yaml", "run", "--", "echo", "--json", cwd=home)
    assert json.loads(done.stdout)[0]["stdout"] == "--json\n", done.stderr
    assert json.loads(ugro("--json", "state", "rebuild", cwd=home).stdout)["live"] == 0
    assert "No such option '--json'" in json.loads(ugro("--json", "init", cwd=home).stderr)["error"]["message"]
    assert ugro("--json").stdout.startswith("Usage: ugro")


def test_errors_as_json(ugro: Ugro, home: Path) -> None:
    done = ugro("status", "--json", cwd=home)
    error = json.loads(done.stderr)["error"]
    assert done.returncode == 2 and done.stdout == ""
    assert set(error) == {"code", "message", "hint"} and error["code"] == "inventory"
    assert json.loads(ugro("nodes", "--frobnicate", "--json", cwd=home).stderr)["error"]["code"] == "usage"


def test_a_state_directory_that_cannot_be_read_ends_with_4(ugro: Ugro, home: Path) -> None:
    jobs = home / ".ugro/jobs/job-001"
    jobs.mkdir(parents=True)
    (jobs / "job.json").write_text("{")
    done = ugro("status", "job-001", cwd=home)
    assert done.returncode == 4 and str(jobs / "job.json") in done.stderr


def test_init_writes_an_inventory_that_loads(ugro: Ugro, home: Path) -> None:
    (home / ".ssh").mkdir()
    (home / ".ssh/config").write_text("Host lab bastion\n  HostName 10.0.0.9\nHost *.example !x\n  User me\n")
    done = ugro("init", "--name", "gpu-master", "gpu1=ob@192.168.1.101", "ollie@192.168.1.102:2222", cwd=home)
    assert done.returncode == 0, done.stderr
    inventory = load_inventory(home / "inventory.yaml")
    assert list(inventory.nodes) == ["gpu-master", "gpu1", "192.168.1.102"]
    assert inventory.nodes["gpu-master"].local
    assert (inventory.nodes["192.168.1.102"].user, inventory.nodes["192.168.1.102"].port) == ("ollie", 2222)
    text = (home / "inventory.yaml").read_text()
    assert "# lab: {address: lab}" in text and "example" not in text
    again = ugro("init", cwd=home)
    assert again.returncode == 2 and "is there already" in again.stderr
    assert ugro("init", "--force", cwd=home).returncode == 0


def test_init_writes_the_interpreter_of_this_machine_that_has_torch(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def plant(name: str, status: int) -> str:
        (python := home / name / "python3").parent.mkdir()
        python.write_text(f"#!/bin/sh\nexit {status}\n")
        python.chmod(0o755)
        return str(python)

    with_torch, without = plant("with", 0), plant("without", 1)
    monkeypatch.setattr(sys, "executable", without)
    monkeypatch.setenv("PATH", str(home / "with"))
    monkeypatch.chdir(home)
    write_inventory(home / "inventory.yaml", (), "me")
    assert load_inventory(home / "inventory.yaml").nodes["me"].python == with_torch
    monkeypatch.setenv("PATH", str(home / "without"))
    assert own_python() is None, "the default of the inventory stands"
    monkeypatch.setattr(sys, "executable", with_torch)
    assert own_python() == with_torch


def test_init_replaces_the_example_of_the_repository_unless_it_was_edited(ugro: Ugro, home: Path) -> None:
    example = ROOT / "inventory.yaml"
    assert is_sample(example), "SAMPLE_SHA256 is that of the inventory.yaml at the top"
    here = home / "inventory.yaml"
    here.write_bytes(example.read_bytes())
    done = ugro("init", "gpu1=ob@192.168.1.101", cwd=home)
    assert done.returncode == 0 and "in place of the example that was there" in done.stdout
    assert "gpu2" not in load_inventory(here).nodes
    here.write_bytes(example.read_bytes() + b"# mine\n")
    assert ugro("init", cwd=home).returncode == 2


def test_init_warns_where_this_shell_uses_another_inventory(ugro: Ugro, home: Path) -> None:
    other = home / "other.yaml"
    warned = ugro("init", cwd=home, env={"UGRO_INVENTORY": str(other)})
    assert f"this shell uses {other} ($UGRO_INVENTORY); to use the new one: unset UGRO_INVENTORY" in warned.stderr
    sandbox = {"UGRO_SANDBOX_DIR": str(home / "box"), "UGRO_INVENTORY": str(home / "box/inventory.yaml")}
    warned = ugro("init", "--force", cwd=home, env=sandbox)
    assert 'to use the new one: eval "$(ugro sandbox env --unset)"' in warned.stderr
    assert "this shell" not in ugro("init", "--force", cwd=home).stderr
    assert "state directory: /x ($UGRO_HOME)" in ugro("init", "--force", cwd=home, env={"UGRO_HOME": "/x"}).stderr


def test_errors_about_nodes_say_which_inventory_counts_and_why(ugro: Ugro, home: Path) -> None:
    (home / "inventory.yaml").write_text("nodes:\n  away: {address: 127.0.0.1, port: 1}\n")
    named = {"UGRO_INVENTORY": str(home / "inventory.yaml")}
    told = f"inventory: {home}/inventory.yaml (from $UGRO_INVENTORY)"
    for words in ("status",), ("nodes",), ("drain", "nowhere", "--reason", "x"), ("trust", "away"):
        assert ugro(*words, cwd=home, env=named).stderr.rstrip().splitlines()[-1] == told, words
        assert "inventory: inventory.yaml" in ugro(*words, cwd=home).stderr.splitlines(), words
    lost = ugro("status", cwd=home, env={"UGRO_INVENTORY": "/nowhere.yaml"})
    assert lost.returncode == 2 and "inventory: /nowhere.yaml (from $UGRO_INVENTORY)" in lost.stderr


def test_shows_how_to_leave_a_stopped_sandbox_that_the_shell_points_to(ugro: Ugro, home: Path) -> None:
    box = home / "box"
    box.mkdir()
    (box / "inventory.yaml").write_text("nodes:\n  away: {address: 127.0.0.1, port: 1}\n")
    env = {"UGRO_SANDBOX_DIR": str(box), "UGRO_INVENTORY": str(box / "inventory.yaml"), "UGRO_HOME": str(box / "state")}
    leave = 'eval "$(ugro sandbox env --unset)"'
    assert (
        f"the sandbox is stopped: start it with `ugro sandbox up`, or leave it: {leave}"
        in ugro("nodes", env=env).stderr
    )
    assert leave in ugro("sandbox", "down", env=env).stdout
    assert ugro("sandbox", "env", "--unset", env=env).stdout == "unset UGRO_HOME UGRO_INVENTORY UGRO_SANDBOX_DIR\n"


@pytest.mark.parametrize("text", ["", "a b", "gpu1=", "x=$(y)", "=a", "a:port", "../x=h", "n=-oProxyCommand=x", "a=@b"])
def test_init_refuses_what_names_no_machine(ugro: Ugro, home: Path, text: str) -> None:
    done = ugro("init", "--", text, cwd=home)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert not (home / "inventory.yaml").exists()


def test_names_users_and_ports_are_taken_apart() -> None:
    host = parse_host("gpu1=ob@[fe80::1]:22")
    assert (host.name, host.user, host.address, host.port) == ("gpu1", "ob", "fe80::1", 22)
    assert parse_host("10.0.0.1").name == "10.0.0.1"
    with pytest.raises(InputError):
        parse_host("a=b=c")
    assert "nodes:" in draft("me", "10.0.0.1", [], []) and hosts_of_ssh_config(Path("/nowhere")) == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(ugro: Ugro, shell: str) -> None:
    assert "_UGRO_COMPLETE" in ugro("completion", shell).stdout


def test_completion_of_commands(home: Path) -> None:
    env = {"_UGRO_COMPLETE": "bash_complete", "COMP_WORDS": "ugro la", "COMP_CWORD": "1"}
    done = subprocess.run([Path(sys.executable).parent / "ugro"], env=os.environ | env, capture_output=True, text=True)
    assert done.stdout == "plain,launch\n"


def test_a_reader_that_has_seen_enough_is_no_error(home: Path) -> None:
    (home / "inventory.yaml").write_text("nodes:\n  me: {address: 127.0.0.1, local: true}\n")
    command = f"set -o pipefail; {sys.executable} -m ugro run -- 'seq 100000' | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=home, timeout=60)
    assert (done.returncode, done.stdout) == (0, "me | 1\n") and "Traceback" not in done.stderr, done.stderr


@pytest.mark.long
def test_closed_and_full_outputs_are_no_traceback(home: Path) -> None:
    (home / "inventory.yaml").write_text("nodes:\n  me: {address: 127.0.0.1, local: true}\n")
    for redirected in (">&-", "> /dev/full", "2>&- >&-"):
        command = f"{sys.executable} -m ugro nodes {redirected}"
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, cwd=home, timeout=60)
        assert "Traceback" not in done.stderr
    (home / "gone").mkdir()
    command = f"rmdir ../gone; {sys.executable} -m ugro --inventory ../inventory.yaml launch t.py"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, cwd=home / "gone", timeout=60)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr


def test_ugro_alone_shows_its_help(ugro: Ugro) -> None:
    done = ugro()
    assert done.returncode == 0 and done.stdout.startswith("Usage: ugro")


def test_a_command_computes_its_cluster_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "inventory.yaml").write_text("nodes:\n  one: {address: 127.0.0.1}\n")
    looks: list[MetadataStore] = []
    monkeypatch.setattr(JobRegistry, "live", lambda store, *_: looks.append(store) or [])
    context = Context(str(home / "inventory.yaml"))
    assert [list(context.cluster.nodes) for _ in range(3)] == [["one"]] * 3 and len(looks) == 1
    (home / "inventory.yaml").write_text("nodes:\n  two: {address: 127.0.0.1}\n")
    serving = Serving(str(home / "inventory.yaml"), 2.0)
    assert serving.nodes == ("two",) and len(looks) == 2, "`ugro serve` takes up an edited inventory"


def test_an_option_that_is_like_none_is_only_taken_for_the_scripts(ugro: Ugro) -> None:
    assert "did you mean" not in ugro("launch", "train.py", "--learning-rate", "3").stderr
    assert "did you mean" not in ugro("launch", "train.py", "-n", "3").stderr


@pytest.mark.parametrize("group", ["cron", "alerts", "state", "node"])
def test_a_group_alone_is_answered_with_its_help(ugro: Ugro, home: Path, group: str) -> None:
    done = ugro(group, cwd=home)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"Usage: ugro {group} ") and "error" not in done.stderr


def test_a_terminal_that_knows_only_ascii_gets_question_marks(ugro: Ugro, home: Path) -> None:
    (home / "inventory.yaml").write_text("nodes:\n  here: {address: 127.0.0.1, local: true}\n")
    ugro("drain", "here", "--reason", "é", cwd=home)
    command = [sys.executable, "-m", "ugro", "nodes"]
    env = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=home, env=env, stdin=subprocess.DEVNULL)
    assert done.returncode == 0 and "drained: ?" in done.stdout, done.stderr


def test_the_command_that_gc_suggests_removes_what_it_showed(ugro: Ugro, home: Path) -> None:
    store = MetadataStore(home / "state")
    job = store.jobs.submit(store.jobs.reserve(), JobSpec(script="t.py"), builders.CODE, 1.0)
    store.jobs.save(job.model_copy(update={"state": JobState.CANCELLED, "ended_at": 5.0}), "cancelled", "")
    log = store.jobs.files(job.id).logs(1) / "node-0" / "rank-0.log"
    log.parent.mkdir(parents=True)
    log.write_text("x" * 4096)
    done = ugro("gc", "--older-than", "1m", cwd=home, env={"UGRO_HOME": str(store.home)})
    assert "would be removed: ugro gc --older-than 1m --delete" in done.stdout, done
