"""What UGRO left on a node, and its removal, with real files and processes on this machine."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner, Result

from ugro.cli.main import COMMANDS, cli
from ugro.common.errors import InputError, NodeError, NodeRefused
from ugro.nodes.code_sync.push import push_code
from ugro.nodes.remote.footprint.footprint import Footprint, Removal, clean, footprint
from ugro.nodes.remote.footprint.old_environments import old_environments, remove_environments
from ugro.nodes.remote.run.process_manager import make_folder
from ugro.nodes.transport import LocalTransport
from ugro.testing import builders

NASTY = 'it\'s \n a "name" $(touch pwned) *'


@pytest.fixture
def base(home: Path) -> Path:
    return home / ".ugro"


@pytest.fixture
def node(home: Path) -> LocalTransport:
    return LocalTransport(builders.this_machine())


async def populate(node: LocalTransport, base: Path, job: str = "job-001", uid: str = "uid-1") -> Path:
    """Everything that the node side makes for a job; 10 files with 100 bytes and a little more."""
    await make_folder(node, "~/.ugro", job, uid)
    folder = base / "jobs" / job
    for path in ("code/train.py", f"code/{NASTY}/ckpt", "code.tmp-12ab/manifest.json", "1/node-0/log", "2/node-0/log"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text("x" * 20)
    (folder / "code.sha256").write_text("")
    (folder / ".uid.77").write_text("")
    (folder / "1/node-0/claim").mkdir()
    (folder / "1/node-0/claim/uid").write_text("")
    (folder / "2/node-0/claim").mkdir()
    (folder / "2/node-0/exit").write_text("")
    return folder


def started(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """A process of job-001, as a rank would be."""
    env = os.environ | {"UGRO_RUN": "uid-1/1/0"}
    with subprocess.Popen(["sleep", "60.25"], env=env, start_new_session=True) as running:
        yield running
        running.kill()


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process that carries no mark."""
    with subprocess.Popen(["sleep", "60.75"], start_new_session=True) as running:
        yield running
        running.kill()


async def test_nothing_is_there(node: LocalTransport, base: Path) -> None:
    assert replace(await footprint(node), processes=()) == Footprint(str(base), False)
    assert await clean(node) == []
    assert not base.exists()


async def test_everything_of_a_job_is_seen(node: LocalTransport, base: Path) -> None:
    await populate(node, base)
    seen = await footprint(node)
    assert seen.exists and seen.base_dir == str(base) and seen.foreign == ()
    [job] = seen.jobs
    assert (job.id, job.uid, job.files, job.bytes, job.running, job.processes) == (
        "job-001",
        "uid-1",
        10,
        106,
        False,
        (),
    )
    assert seen.other == (("storage-id", 37),) and seen.bytes == 143
    assert seen.storage_id == (base / "storage-id").read_text().strip()


async def test_everything_goes_and_the_empty_folder_too(node: LocalTransport, base: Path) -> None:
    await populate(node, base)
    await populate(node, base, "job-001", "uid-2")  # puts the first aside
    (base / ".storage-id.12").write_text("x")
    (base / "owner").write_text("m1 me@here since now\n")
    seen = await footprint(node)
    assert [job.uid for job in seen.jobs] == ["uid-2", "uid-1"] and seen.jobs[1].id.startswith("job-001.before-")
    assert seen.owner == "m1 me@here since now" and seen.foreign == ()
    assert await clean(node) == []
    assert not base.exists()


async def test_knows_the_files_of_a_push(node: LocalTransport, base: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    (snapshot / NASTY).write_text("x")
    await make_folder(node, "~/.ugro", "job-001", "uid-1")
    await push_code(node, snapshot, "~/.ugro/jobs/job-001")
    assert (await footprint(node)).foreign == ()
    assert await clean(node) == []
    assert not base.exists()


async def test_folders_that_a_job_closed_go_too(node: LocalTransport, base: Path) -> None:
    folder = await populate(node, base)
    for path in (folder / "code" / NASTY, folder / "code"):
        path.chmod(0o500)
    assert await clean(node) == []
    assert not base.exists()


async def test_environments_that_ugro_made_go_and_others_stay(node: LocalTransport, base: Path) -> None:
    for name in ("torch-2.13-cu130", "begun", "mine", ".cache", ".python"):
        (base / "envs" / name / "bin").mkdir(parents=True)
        (base / "envs" / name / "bin" / "python").write_text("x" * 10)
    (base / "envs/torch-2.13-cu130/.ugro-env").write_text("torch==2.13.*\n")
    (base / "envs/.begun.making").write_text("1 2\n")
    (base / "envs/.uv-77").write_text("uv")
    (base / "envs/linked").symlink_to(base / "envs/mine")
    seen = await footprint(node)
    sizes = {"torch-2.13-cu130": 24, "begun": 10, ".cache": 10, ".python": 10, ".begun.making": 4, ".uv-77": 2}
    assert dict(seen.other) == {f"envs/{name}": size for name, size in sizes.items()}
    assert set(seen.foreign) == {"envs/mine", "envs/linked"}
    assert await clean(node) == []
    assert sorted(path.name for path in (base / "envs").iterdir()) == ["linked", "mine"]


async def test_the_masters_state_stays(node: LocalTransport, base: Path) -> None:
    folder = await populate(node, base)
    state = ("cluster.json", "lock", "inventory.yaml", "jobs/job-001/job.json", "jobs/job-001/spec.json",
             "jobs/job-001/events.jsonl", "jobs/job-001/snapshot/uid", "jobs/job-001/logs/1/node-0/log",
             "jobs/job-001/.tmp-job.json-x", "jobs/job-001/1/notes", "jobs/notes/code/mine",
             "crontab.before")  # fmt: skip
    for name in state:
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_text("state")
    (base / "jobs/job-002").mkdir()  # a submission that is under way
    seen = await footprint(node)
    assert set(seen.foreign) == {
        "cluster.json", "lock", "inventory.yaml", "crontab.before", "jobs/notes", "jobs/job-001/job.json",
        "jobs/job-001/spec.json", "jobs/job-001/events.jsonl", "jobs/job-001/snapshot", "jobs/job-001/logs",
        "jobs/job-001/.tmp-job.json-x", "jobs/job-001/1/notes",
    }  # fmt: skip
    assert await clean(node) == []
    left = {str(path.relative_to(base)) for path in base.rglob("*") if path.is_file()}
    assert left == set(state)
    assert (base / "jobs/job-002").is_dir() and not (folder / "2").exists() and not (folder / "uid").exists()


async def test_links_are_neither_followed_nor_removed(node: LocalTransport, base: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "node-0").mkdir(parents=True)
    (outside / "node-0/log").write_text("precious")
    (outside / "uid").write_text("uid-9")
    folder = await populate(node, base)
    (folder / "code/data").symlink_to(outside)  # inside of our own tree the link itself goes
    for link in ("3", "4/node-0", "4/node-1x", "code.tmp-ff"):
        (folder / link).parent.mkdir(exist_ok=True)
        (folder / link).symlink_to(outside)
    (base / "jobs/job-009").symlink_to(outside)
    (base / "owner").symlink_to(outside / "uid")
    assert set((await footprint(node)).foreign) == {
        "owner", "jobs/job-009", *(f"jobs/job-001/{link}" for link in ("3", "4/node-0", "4/node-1x", "code.tmp-ff"))
    }  # fmt: skip
    left = ["jobs/job-009", *(f"jobs/job-001/{link}" for link in ("3", "4/node-0", "4/node-1x", "code.tmp-ff"))]
    assert (await footprint(node)).jobs[1].links == ("jobs/job-009",)
    assert sorted(await clean(node)) == sorted(left), "what they lead to may be UGRO's: that it is gone is not claimed"
    assert (outside / "node-0/log").read_text() == "precious" and (outside / "uid").exists()
    assert (base / "owner").is_symlink() and (base / "jobs/job-009").is_symlink()
    assert not (folder / "code").exists()


async def test_a_jobs_folder_that_is_linked_to_another_disk_is_looked_at_and_cleaned(
    node: LocalTransport, base: Path, tmp_path: Path
) -> None:
    await populate(node, base)
    (base / "jobs").rename(tmp_path / "scratch")
    (base / "jobs").symlink_to(tmp_path / "scratch")
    (tmp_path / "scratch/notes").mkdir()
    seen = await footprint(node)
    assert [job.id for job in seen.jobs] == ["job-001"] and seen.bytes > 0 and seen.links == ()
    assert seen.foreign == ("jobs", "jobs/notes"), "the link is its owner's"
    folder = tmp_path / "scratch/job-001"
    env = os.environ | {"UGRO_RUN": "uid-1/9/9"}
    with subprocess.Popen(["sleep", "61.5"], cwd=folder / "code", env=env) as running:
        assert [pid for pid, _ in (await footprint(node)).processes] == [running.pid]
        running.kill()
    assert await clean(node) == []
    assert os.listdir(tmp_path / "scratch") == ["notes"] and (base / "jobs").is_symlink()


@pytest.mark.parametrize("name", [NASTY, "-rf", "..x", ".hidden", "job-001\n", "job-1; rm", "storage-id\n", "a\\nb"])
async def test_reports_hostile_names_unchanged(node: LocalTransport, base: Path, name: str) -> None:
    (base / "jobs" / name / "code").mkdir(parents=True)
    (base / name).write_text("mine")
    seen = await footprint(node)
    assert set(seen.foreign) == {name, f"jobs/{name}"} and seen.jobs == ()
    await clean(node)
    assert (base / name).read_text() == "mine" and (base / "jobs" / name / "code").is_dir()
    assert not list(base.rglob("pwned")) and not (base.parent / "pwned").exists()


async def test_a_hostile_base_directory(home: Path) -> None:
    place = home / 'it\'s "a" $(touch pwned) place *'
    here = LocalTransport(builders.this_machine(base_dir=f"~/{place.name}"))
    await make_folder(here, here.node.base_dir, "job-001", "uid-1")
    seen = await footprint(here)
    assert seen.base_dir == str(place) and [job.id for job in seen.jobs] == ["job-001"]
    assert await clean(here) == []
    assert not place.exists() and list(home.iterdir()) == []


async def test_a_base_directory_that_is_a_file_is_said(node: LocalTransport, base: Path) -> None:
    base.write_text("a file")
    with pytest.raises(NodeRefused, match="ugro"):
        await clean(node)
    assert base.read_text() == "a file"


async def test_a_marked_process_keeps_its_job(
    node: LocalTransport, base: Path, process: subprocess.Popen[bytes]
) -> None:
    folder = await populate(node, base)
    await populate(node, base, "job-002", "uid-2")
    seen = await footprint(node)
    assert (process.pid, "sleep 60.25") in seen.processes
    one, two = seen.jobs
    assert one.running and one.processes == ((process.pid, "sleep 60.25"),) and not two.running
    with pytest.raises(NodeRefused, match=rf"job-001 is running here \(pid {process.pid}\)"):
        await clean(node)
    assert (folder / "code/train.py").exists() and (base / "jobs/job-002/code").exists()
    process.kill()
    process.wait()
    assert await clean(node) == []


@pytest.mark.parametrize("end", ["\n", ""])
@pytest.mark.parametrize("file", ["pid", "rank-0.pid"])
async def test_a_recorded_process_keeps_its_job(
    node: LocalTransport, base: Path, bystander: subprocess.Popen[bytes], file: str, end: str
) -> None:
    folder = await populate(node, base)
    words = [str(bystander.pid), started(bystander.pid), *([boot_id()] if file == "pid" else [])]
    (folder / "1/node-0" / file).write_text(" ".join(words) + end)
    assert (await footprint(node)).jobs[0].running
    with pytest.raises(NodeRefused, match="job-001 is running here"):
        await clean(node)
    assert (folder / "code/train.py").exists()


async def test_a_pid_that_was_used_again_keeps_nothing(
    node: LocalTransport, base: Path, bystander: subprocess.Popen[bytes]
) -> None:
    folder = await populate(node, base)
    (folder / "1/node-0/pid").write_text(f"{bystander.pid} 1 {boot_id()}\n")  # another start
    (folder / "1/node-0/rank-0.pid").write_text("; rm -rf / 1\n")
    (folder / "2/node-0/pid").write_text(f"{bystander.pid} {started(bystander.pid)} another-boot\n")
    assert not (await footprint(node)).jobs[0].running
    assert await clean(node) == []


async def test_a_job_without_uid_is_not_kept_by_strangers(
    node: LocalTransport, base: Path, process: subprocess.Popen[bytes]
) -> None:
    (base / "jobs/job-005/code").mkdir(parents=True)
    assert [(job.id, job.uid, job.running) for job in (await footprint(node)).jobs] == [("job-005", "", False)]
    assert await clean(node) == []
    assert not base.exists()


# --- the commands ----------------------------------------------------------------------------------------------------


Ugro = Callable[..., Result]


@pytest.fixture
def ugro(home: Path, monkeypatch: pytest.MonkeyPatch) -> Ugro:
    monkeypatch.setitem(COMMANDS, "footprint", ("ugro.cli.commands.footprint", "footprint", ""))
    inventory = home / "inventory.yaml"
    inventory.write_text("nodes:\n  here: {address: 127.0.0.1, local: true, base_dir: ~/place}\n")

    def call(*args: str, typed: str = "") -> Result:
        return CliRunner().invoke(cli, ["--inventory", str(inventory), *args], input=typed, standalone_mode=False)

    return call


def leave(home: Path) -> Path:
    folder = home / "place/jobs/job-001"
    (folder / "code").mkdir(parents=True)
    (folder / "uid").write_text("uid-1\n")
    (folder / "code/train.py").write_text("x" * 2048)
    return folder


def test_footprint_shows_nodes_and_jobs(ugro: Ugro, home: Path) -> None:
    leave(home)
    shown = ugro("footprint")
    assert shown.return_value == 0, shown.exception
    assert "here: jobs/job-001  2 files, 2 KiB" in shown.stdout
    [said] = json.loads(ugro("footprint", "--on", "here", "--json").stdout)["nodes"]
    assert said["jobs"][0]["id"] == "job-001" and said["bytes"] == 2054 and said["error"] is None


def test_cleaning_needs_consent(ugro: Ugro, home: Path) -> None:
    folder = leave(home)
    asked = ugro("node", "clean", "here")
    assert isinstance(asked.exception, InputError) and "--yes" in asked.exception.hint
    assert "jobs/job-001" in asked.stderr and (folder / "code/train.py").exists()
    assert isinstance(ugro("node", "clean", "here", "--json").exception, InputError)


def test_cleaning_says_that_nothing_is_left(ugro: Ugro, home: Path) -> None:
    leave(home)
    (home / "place/mine").write_text("mine")
    (home / "place/jobs/job-001.before-\udcff/code").mkdir(parents=True)
    (home / "place/\udcff\x1b[2J").write_text("mine")
    done = ugro("node", "clean", "here", "--yes")
    assert done.exception is None and done.return_value == 0
    assert "nothing of UGRO remains on here" in done.stdout and "left alone" in done.stdout
    said = json.loads(ugro("node", "clean", "here", "--json").stdout)
    assert (said["removed"], said["left"], said["foreign"]) == ([], [], ["mine", "\ufffd\x1b[2J"])


def test_cleaning_says_that_the_python_of_the_node_goes(ugro: Ugro, home: Path) -> None:
    (home / "place/envs/torch-2.13-cpu").mkdir(parents=True)
    (home / "place/envs/torch-2.13-cpu/.ugro-env").write_text("torch\n")
    inventory = home / "inventory.yaml"
    inventory.write_text(inventory.read_text().replace("}", ", python: ~/place/envs/torch-2.13-cpu/bin/python}"))
    asked = ugro("node", "clean", "here")
    assert "The python of here is among it" in asked.stderr


def test_a_node_with_a_job_is_not_cleaned(ugro: Ugro, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ugro.common.models.job import Job
    from ugro.common.models.job_state import JobState
    from ugro.control_plane.metadata_store.job_registry import JobRegistry

    folder = leave(home)
    job = builders.job(JobState.UNKNOWN)
    monkeypatch.setattr(Job, "nodes", ("here",))
    monkeypatch.setattr(JobRegistry, "live", lambda *_: [job])
    refused = ugro("node", "clean", "here", "--yes")
    assert isinstance(refused.exception, InputError) and "job-001 is on here" in refused.exception.message
    assert (folder / "code/train.py").exists()


def test_a_node_of_that_name_is_needed(ugro: Ugro) -> None:
    assert isinstance(ugro("node", "clean", "there", "--yes").exception, InputError)


def test_removes_nothing_without_consent(ugro: Ugro, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = leave(home)
    monkeypatch.setattr("ugro.cli.prompts.sys", SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True)))
    assert "nothing was removed" in str(ugro("node", "clean", "here", typed="n\n").exception)
    assert (folder / "code/train.py").exists()
    assert ugro("node", "clean", "here", typed="y\n").return_value == 0
    assert not folder.exists()


def footprint_of(**changes: object) -> Footprint:
    return replace(Footprint("/place", True, storage_id="s-1"), **changes)  # type: ignore[arg-type]


def test_a_home_that_a_busy_node_shares_is_not_cleaned() -> None:
    from ugro.service.footprint import _refuse_if_shared

    _refuse_if_shared("here", footprint_of(), "there", footprint_of(storage_id="s-2"))
    _refuse_if_shared("here", footprint_of(storage_id=""), "there", footprint_of(storage_id=""))
    with pytest.raises(NodeRefused, match="shares /place with there"):
        _refuse_if_shared("here", footprint_of(), "there", footprint_of())
    with pytest.raises(NodeRefused, match="is unreachable"):
        _refuse_if_shared("here", footprint_of(), "there", NodeError("there", "is away"))


async def test_a_process_of_another_installation_on_the_machine_is_not_of_this_one(
    node: LocalTransport, base: Path, process: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    """Two nodes of a sandbox have the same job, each with a run of its own, and see each other's processes."""
    folder = await populate(node, base)
    for attempt in ("1", "2"):
        (folder / attempt / "node-0").rename(folder / attempt / "node-1")
    seen = await footprint(node)
    assert process.pid not in {pid for pid, _ in seen.processes}
    assert [(job.running, job.processes) for job in seen.jobs] == [(False, ())]
    assert await clean(node) == []
    assert process.poll() is None


@pytest.mark.parametrize("marked", [True, False])
async def test_a_process_that_works_below_the_folder_is_of_it(node: LocalTransport, base: Path, marked: bool) -> None:
    folder = await populate(node, base)
    env = {key: value for key, value in os.environ.items() if key != "UGRO_RUN"}
    env |= {"UGRO_RUN": "uid-9/1/0"} if marked else {}
    with subprocess.Popen(["sleep", "60.5"], env=env, cwd=folder / "code", start_new_session=True) as worker:
        try:
            seen = await footprint(node)
            assert ((worker.pid, "sleep 60.5") in seen.processes) is marked
            assert not seen.jobs[0].running, "it carries no mark of this job"
        finally:
            worker.kill()


def test_removes_what_another_master_has_only_with_takeover(ugro: Ugro, home: Path) -> None:
    folder = leave(home)
    (home / "place/owner").write_text("m-2 you@other since 2026-11-24T11:00:00+00:00\n")
    refused = ugro("node", "clean", "here", "--yes")
    assert isinstance(refused.exception, InputError) and refused.exception.exit_code == 2
    assert "another master runs here: you@other since 2026-11-24" in refused.exception.message
    assert "--takeover" in refused.exception.hint
    assert isinstance(ugro("node", "clean", "here", "--yes", "--json").exception, InputError)
    assert (folder / "code/train.py").exists()
    assert ugro("node", "clean", "here", "--yes", "--takeover").return_value == 0
    assert not folder.exists()


def test_removes_what_this_master_has_without_takeover(ugro: Ugro, home: Path) -> None:
    from ugro.service.context import Context

    leave(home)
    (home / "place/owner").write_text(Context().store.config.master() + "\n")
    assert ugro("node", "clean", "here", "--yes").return_value == 0


async def test_lists_environments_with_their_last_use_and_removes_them(node: LocalTransport, base: Path) -> None:
    for name, files in (("a" * 32, ("env/bin/python", "log", "used")), ("b" * 32, ("log",)), ("mine", ("x",))):
        for file in files:
            path = base / "setups" / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("" if file == "used" else "x" * 10)
    os.utime(base / "setups" / ("a" * 32) / "used", (1000, 1000))
    seen = await footprint(node)
    assert [(one.name[:8], one.bytes, one.used_at) for one in seen.environments] == [
        ("setups/a", 20, 1000.0),
        ("setups/b", 10, None),
    ]
    assert seen.foreign == ("setups/mine",) and seen.bytes == 30 and len(seen.own) == 2
    assert await clean(node) == []
    assert [path.name for path in (base / "setups").iterdir()] == ["mine"]


async def test_finds_and_removes_environments_that_nothing_used_for_long(node: LocalTransport, base: Path) -> None:
    old, used, held, begun = (f"setups/{letter * 32}" for letter in "abcd")
    for name in (old, used, held, begun):
        for file in ("env/bin/python", "log", "used", "done", "claim/beat"):
            (base / name / file).parent.mkdir(parents=True, exist_ok=True)
            (base / name / file).write_text("x" * 10)
        for path in (base / name).rglob("*"):
            os.utime(path, (1000, 1000))
        os.utime(base / name, (1000, 1000))
    (base / used / "used").touch()
    (base / begun / "claim/beat").touch()  # its setup runs just now, somewhere
    (base / "setups/mine").mkdir()
    (base / "storage-id").write_text("one\n")
    env = os.environ | {"UGRO_ENV_DIR": f"{base}/{held}/env"}
    with subprocess.Popen(["sleep", "60.5"], env=env, start_new_session=True) as running:
        found = await old_environments(node, 3600)
        assert [(one.name, one.bytes, one.used_at) for one in found.environments] == [(old, 50, 1000.0)]
        assert found.storage == "one" and len((await old_environments(node, 0)).environments) == 3
        gone = await remove_environments(node, [old, used, held, f"setups/{'e' * 32}"], 3600)
        assert [*gone.values()] == [Removal.GONE, Removal.RUNNING, Removal.RUNNING, Removal.ABSENT]
        running.kill()
    assert sorted(path.name[:4] for path in (base / "setups").iterdir()) == ["bbbb", "cccc", "dddd", "mine"]
