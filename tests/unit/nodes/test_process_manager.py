"""Starting, watching and ending ranks, with real processes on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from places import TESTS

from ugro.common.errors import NodeRefused
from ugro.common.models.job import GpuPart
from ugro.common.models.run import RankFiles, RunFiles
from ugro.common.paths import RunPaths
from ugro.nodes.remote.run import process_manager
from ugro.nodes.remote.run.process_manager import NodeLaunch, PeerRoute, Stopped, launch_script, program_name
from ugro.nodes.remote.run.run_files import look, parse_look
from ugro.nodes.transport import LocalTransport
from ugro.testing import builders

GOLDEN = TESTS / "golden" / "launch.sh"
TORCHRUN = """#!/bin/sh
# The node's python; as torchrun it starts rank.py in a session of its own, as torchrun does.
[ "$1" = -m ] || exec {python} "$@"
while [ "${{1%rank.py}}" = "$1" ]; do shift; done
RANK=0 /usr/bin/setsid --wait {python} "$@"
"""


def launch(home: Path, **changes: object) -> NodeLaunch:
    given = NodeLaunch(
        paths=RunPaths("~/.ugro", "job-001", 1, 0),
        uid="uid-1",
        command=("train.py",),
        nnodes=1,
        nproc=1,
        master_addr="127.0.0.1",
        master_port=29507,
        python=str(home / "torchrun"),
    )
    return replace(given, **changes)  # type: ignore[arg-type]


@pytest.fixture
def node(home: Path) -> LocalTransport:
    stand_in = home / "torchrun"
    stand_in.write_text(TORCHRUN.format(python=sys.executable))
    stand_in.chmod(0o755)
    code = home / ".ugro/jobs/job-001/code"
    code.mkdir(parents=True)
    return LocalTransport(builders.this_machine(python=str(stand_in)))


def script(home: Path, text: str) -> None:
    (home / ".ugro/jobs/job-001/code/train.py").write_text(text)


async def start(node: LocalTransport, plan: NodeLaunch) -> None:
    await process_manager.start(node, plan.paths, plan.uid, launch_script(plan))


async def seen(node: LocalTransport, plan: NodeLaunch) -> RunFiles:
    return (await look(node, [plan.paths]))[0]


async def until(node: LocalTransport, plan: NodeLaunch, done: str) -> RunFiles:
    """Look until an attribute of the run, or of its rank, is set."""
    async with asyncio.timeout(20):
        while True:
            run = await seen(node, plan)
            if getattr(run, done, None) or (run.ranks and getattr(run.ranks[0], done, None)):
                return run
            await asyncio.sleep(0.05)


def read(home: Path, name: str) -> str:
    return (home / ".ugro/jobs/job-001/1/node-0" / name).read_text()


def test_the_launch_script_is_what_it_was() -> None:
    """A change of this file is a change of what runs on people's machines: look at it."""
    plan = NodeLaunch(
        paths=RunPaths("~/.ugro", "job-007", 2, 1),
        uid="0123456789abcdef",
        command=("train it.py", "--lr", "1e-4", "$(touch x)", "it's\n"),
        nnodes=3,
        nproc=2,
        master_addr="192.168.1.100",
        master_port=29549,
        python="~/env/bin/python",
        gpus=("GPU-1", "GPU-2"),
        interface="enp5s0",
        env=(("A", "b c"),),
        time_limit=36000.0,
        time_warning=0.5,
        shares=(0.4, 0.1),
    )
    assert launch_script(plan) == GOLDEN.read_text()


def test_a_job_that_shares_a_gpu_finds_its_part_in_its_environment(home: Path) -> None:
    part = GpuPart(memory_mib=4096, fraction=0.2917)
    found = process_manager.rank_environment(launch(home, gpus=("GPU-1",), part=part))
    assert (found["UGRO_GPU_MEMORY_MIB"], found["UGRO_GPU_FRACTION"]) == ("4096", "0.2917")
    assert found["CUDA_VISIBLE_DEVICES"] == "GPU-1"
    assert not {"UGRO_GPU_MEMORY_MIB", "UGRO_GPU_FRACTION"} & process_manager.rank_environment(launch(home)).keys()


async def test_a_rank_leaves_its_own_exit_code(home: Path, node: LocalTransport) -> None:
    script(home, "import os, sys; print('hello', os.environ['UGRO_JOB'], sys.argv[1:]); sys.exit(3)")
    plan = launch(home, command=("train.py", "a b", "$(touch pwned)", "'\"", "new\nline", "../.."))
    await start(node, plan)
    run = await until(node, plan, "over")
    assert run.claimed and run.uid == "uid-1" and not run.rebooted
    assert run.exit_code == 3
    assert [(rank.rank, rank.exit_code, rank.signal, rank.alive) for rank in run.ranks] == [(0, 3, None, False)]
    assert read(home, "rank-0.log") == "hello job-001 ['a b', '$(touch pwned)', '\\'\"', 'new\\nline', '../..']\n"
    assert not list(home.rglob("pwned"))


async def test_an_environment_of_the_job_does_not_break_what_notes_its_end(home: Path, node: LocalTransport) -> None:
    script(home, "import os, sys; print(os.environ['PATH']); sys.exit(5)")
    plan = launch(home, env=(("PATH", "/nowhere:$PATH"),))
    await start(node, plan)
    run = await until(node, plan, "over")
    assert (run.exit_code, read(home, "rank-0.log")) == (5, "/nowhere:$PATH\n"), "a value is taken as it stands"


async def test_a_rank_that_dies_of_a_signal(home: Path, node: LocalTransport) -> None:
    script(home, "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    await start(node, launch(home))
    run = await until(node, launch(home), "over")
    assert (run.ranks[0].exit_code, run.ranks[0].signal) == (None, "SEGV")


async def test_the_time_limit_holds_on_the_node(home: Path, node: LocalTransport) -> None:
    script(home, "import time; time.sleep(600)")
    plan = launch(home, time_limit=0.4)
    await start(node, plan)
    run = await until(node, plan, "over")
    assert run.ranks[0].signal == "TERM" and read(home, "rank-0.limit").startswith("ended ")


async def test_a_second_start_of_the_same_attempt_starts_nothing(home: Path, node: LocalTransport) -> None:
    script(home, "import os; open('../started', 'a').write('x'); os.read(os.open('/proc/self/fd/0', 0), 1)")
    await asyncio.gather(*(start(node, launch(home)) for _ in range(5)))
    await until(node, launch(home), "over")
    await start(node, launch(home))
    assert (home / ".ugro/jobs/job-001/started").read_text() == "x"


async def test_secrets_reach_the_ranks_and_leave_no_file(home: Path, node: LocalTransport) -> None:
    script(home, "import os, time; print(os.environ['T'], os.environ['U'], flush=True); time.sleep(60)")
    plan = launch(home, secrets=("T",), env=(("T", "plain"), ("U", "u")))
    secret = "hf_é'\"\n$(touch pwned)"
    text = launch_script(plan)
    assert "plain" not in text and "# secrets, which reaper.py reads from a file and removes: T\n" in text
    await process_manager.start(node, plan.paths, plan.uid, text, {"T": secret})
    await until(node, plan, "pid")
    async with asyncio.timeout(20):
        while not read(home, "rank-0.log").endswith(" u\n"):
            await asyncio.sleep(0.05)
    assert read(home, "rank-0.log") == f"{secret} u\n"
    files = [path for path in (home / ".ugro/jobs/job-001/1/node-0").rglob("*") if path.is_file()]
    assert [path.name for path in files if b"touch pwned" in path.read_bytes()] == ["rank-0.log"]
    assert not [path for path in Path("/proc").glob("[0-9]*/cmdline") if b"touch pwned" in read_if_there(path)]
    await process_manager.stop(node, plan.paths, plan.uid, 0)


def read_if_there(path: Path) -> bytes:
    with contextlib.suppress(OSError):
        return path.read_bytes()
    return b""


async def test_stop_removes_secrets_that_no_reaper_read(home: Path, node: LocalTransport) -> None:
    plan = launch(home, python="/no/python", secrets=("T",))
    await process_manager.start(node, plan.paths, plan.uid, launch_script(plan), {"T": "hf_value"})
    await until(node, plan, "over")
    secrets = home / ".ugro/jobs/job-001/1/node-0/secrets"
    assert secrets.read_text() == '{"T": "hf_value"}' and secrets.stat().st_mode & 0o777 == 0o600
    await process_manager.detached(node, plan.paths, plan.uid)
    assert secrets.exists()
    await process_manager.stop(node, plan.paths, plan.uid, 0)
    assert not secrets.exists()


async def test_stop_ends_everything_and_notes_how(home: Path, node: LocalTransport) -> None:
    """A rank that ignores SIGTERM, a child in a session of its own, and a grandchild that wiped its environment."""
    script(
        home,
        "import os, signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "hidden = [sys.executable, '-c', 'import time; time.sleep(600)']\n"
        "own = subprocess.Popen(['sleep', '601'], start_new_session=True)\n"
        "subprocess.Popen(['env', '-i', *hidden], start_new_session=True)\n"
        "subprocess.Popen(['sh', '-c', 'setsid sleep 602 & exit'])\n"
        "print(own.pid, flush=True)\n"
        "time.sleep(600)\n",
    )
    plan = launch(home)
    await start(node, plan)
    rank = (await until(node, plan, "pid")).ranks[0]
    async with asyncio.timeout(10):
        while not read(home, "rank-0.log").endswith("\n"):
            await asyncio.sleep(0.05)
    before = members(plan.run)
    assert len(before) >= 6
    assert (await process_manager.stop(node, plan.paths, plan.uid, grace=0.3)).left == ()
    run = await seen(node, plan)
    assert run.over
    assert (run.ranks[0].pid, run.ranks[0].signal) == (rank.pid, "KILL"), "the script's own end is on record"
    assert members(plan.run) == []
    assert not [pid for pid in before if alive(pid)]


async def test_names_processes_that_a_script_left_behind(home: Path, node: LocalTransport) -> None:
    script(home, "import subprocess\nsubprocess.Popen(['sleep', '600'], start_new_session=True)\n")
    plan = launch(home, uid="uid-of-its-own")
    await start(node, plan)
    await until(node, plan, "over")
    (left,) = await process_manager.detached(node, plan.paths, plan.uid)
    assert left.name == "sleep"
    assert alive(left.pid)
    stopped = await process_manager.stop(node, plan.paths, plan.uid, grace=3)
    assert left in stopped.detached and stopped.left == () and not alive(left.pid)
    assert await process_manager.detached(node, plan.paths, plan.uid) == ()


# Leaves a daemon behind: orphaned, in a session of its own, without an environment.
DAEMON = """import os, subprocess, sys
subprocess.run(['setsid', 'sh', '-c', '%s env -i sleep 600 & echo $! > ../daemon'], stdin=-3, stdout=-3, stderr=-3)
sys.exit(7)
"""


async def daemon(home: Path, node: LocalTransport, plan: NodeLaunch, trap: str = "") -> int:
    """The pid of a daemon that a script left, which has ended."""
    script(home, DAEMON % trap)
    await start(node, plan)
    run = await until(node, plan, "over")
    assert (run.exit_code, run.ranks[0].exit_code, run.runner_alive) == (7, 7, True), "its runner stays"
    pid = int((home / ".ugro/jobs/job-001/daemon").read_text())
    assert not Path(f"/proc/{pid}/environ").read_bytes(), "nothing in it tells of the run"
    return pid


def reaper_of(home: Path) -> int:
    return int(read(home, "reaper.pid").split()[0])


@pytest.mark.parametrize("trap", ["", 'trap "" TERM;'])
async def test_a_daemon_that_hides_is_named_and_ended(home: Path, node: LocalTransport, trap: str) -> None:
    plan = launch(home)
    pid = await daemon(home, node, plan, trap)
    (left,) = await process_manager.detached(node, plan.paths, plan.uid)
    assert (left.pid, left.name) == (pid, "sleep")
    stopped = await process_manager.stop(node, plan.paths, plan.uid, grace=1)
    assert (stopped.left, stopped.proved) == ((), True)
    assert not alive(pid) and members(plan.run) == [], "the reaper leaves with the last of them"
    again = await process_manager.stop(node, plan.paths, plan.uid, grace=1)
    assert (again.left, again.detached, again.proved) == ((), (), True)


async def test_a_daemon_that_hides_ends_by_itself(home: Path, node: LocalTransport) -> None:
    pid = await daemon(home, node, launch(home))
    os.kill(pid, signal.SIGTERM)
    async with asyncio.timeout(10):
        while (await seen(node, launch(home))).runner_alive:
            await asyncio.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists(), "no zombie of it stays"
    assert read(home, "gone")


async def test_once_the_reaper_is_killed_nothing_is_proved(home: Path, node: LocalTransport) -> None:
    """What it had noted before is still known."""
    plan = launch(home)
    pid = await daemon(home, node, plan)
    os.kill(reaper_of(home), signal.SIGCHLD)  # it looks at once, not only after its pause
    async with asyncio.timeout(10):
        while not (home / ".ugro/jobs/job-001/1/node-0/adopted").exists():
            await asyncio.sleep(0.02)
    os.kill(reaper_of(home), signal.SIGKILL)
    async with asyncio.timeout(10):
        while members(plan.run):
            await asyncio.sleep(0.02)
    assert alive(pid)
    assert [left.pid for left in await process_manager.detached(node, plan.paths, plan.uid)] == [pid]
    stopped = await process_manager.stop(node, plan.paths, plan.uid, grace=1)
    assert (stopped.left, stopped.proved) == ((), False) and not alive(pid)
    assert read(home, "exit").startswith("7 "), "how torchrun ended stays as it was"


async def test_torchrun_that_is_killed_leaves_its_signal(home: Path, node: LocalTransport) -> None:
    script(home, "import time; time.sleep(600)")
    plan = launch(home)
    await start(node, plan)
    await until(node, plan, "pid")
    os.kill(int(read(home, "reaper.pid").split()[2]), signal.SIGKILL)
    run = await until(node, plan, "over")
    assert (run.exit_code, run.ranks[0].alive) == (137, True)
    assert (await process_manager.stop(node, plan.paths, plan.uid, grace=3)).proved


async def test_distinguishes_a_killed_reaper_from_torchrun(home: Path, node: LocalTransport) -> None:
    script(home, "import time; time.sleep(600)")
    plan = launch(home)
    await start(node, plan)
    await until(node, plan, "pid")
    os.kill(reaper_of(home), signal.SIGKILL)
    run = await until(node, plan, "over")
    assert (run.exit_code, run.reaper_died, run.ranks[0].alive) == (137, True, True)
    await process_manager.stop(node, plan.paths, plan.uid, grace=3)


async def test_room_for_the_end_is_there_before_the_script_starts(home: Path, node: LocalTransport) -> None:
    """A disk that is full by then has no more; the other files about the end may not fit."""
    script(home, "import os, sys, time\nwhile not os.path.exists('go'): time.sleep(0.02)\nsys.exit(3)")
    plan = launch(home)
    await start(node, plan)
    await until(node, plan, "pid")
    folder = home / ".ugro/jobs/job-001/1/node-0"
    names = ("rank-0.exit", "exit", "gone")
    reserved = {name: (folder / f"{name}.room").stat() for name in names}
    assert all(room.st_size >= 40 for room in reserved.values())
    (folder / "rank-0.error").mkdir()
    (folder / "agent.error").write_text("{}")
    (home / ".ugro/jobs/job-001/code/go").touch()
    async with asyncio.timeout(10):
        while not (folder / "gone").exists():
            await asyncio.sleep(0.02)
    assert {name: (folder / name).stat().st_ino for name in names} == {n: s.st_ino for n, s in reserved.items()}
    assert read(home, "rank-0.exit").startswith("code 3 ") and read(home, "exit").startswith("3 ")
    assert all(read(home, name).count("\n") == 1 and read(home, name).endswith("\n") for name in names)


async def test_a_python_that_is_not_there_leaves_the_code_of_a_shell(home: Path, node: LocalTransport) -> None:
    plan = launch(home, python="/no/python")
    await start(node, plan)
    assert (await until(node, plan, "over")).exit_code == 127
    assert not (await process_manager.stop(node, plan.paths, plan.uid, grace=1)).proved


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["/usr/bin/python3.11", "-u", "/a/upload.py", "--key", "k"], "python3.11 upload.py"),
        (["python", "-m", "pkg.upload"], "python pkg.upload"),
        (["bash", "-c", "curl -H 'key: k'"], "bash"),
        (["rclone", "copy", "k:secret"], "rclone"),
        (["", ""], ""),
        (["\x1b[31mred" + "x" * 99], "red" + "x" * 57),
    ],
)
def test_a_program_is_named_without_what_may_be_secret(words: list[str], name: str) -> None:
    assert program_name(words) == name


async def test_stop_never_hits_a_reused_pid(home: Path, node: LocalTransport) -> None:
    plan = launch(home)
    folder = home / ".ugro/jobs/job-001/1/node-0"
    folder.mkdir(parents=True)
    bystander = await asyncio.create_subprocess_exec("sleep", "60")
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    (folder / "pid").write_text(f"{bystander.pid} 12345 {boot}\n")
    (folder / "rank-0.pid").write_text(f"{bystander.pid} 12345\n")
    assert (await process_manager.stop(node, plan.paths, plan.uid, grace=1)).left == ()
    assert bystander.returncode is None
    run = await seen(node, plan)
    assert not run.runner_alive and not run.ranks[0].alive
    bystander.kill()
    await bystander.wait()


async def test_recognizes_a_reboot_by_the_boot_id(home: Path, node: LocalTransport) -> None:
    folder = home / ".ugro/jobs/job-001/1/node-0"
    (folder / "claim").mkdir(parents=True)
    (folder / "claim/uid").write_text("uid-1\n")
    (folder / "pid").write_text(f"{os.getpid()} 1 another-boot\n")
    run = await seen(node, launch(home))
    assert run.claimed and run.over and run.rebooted
    assert (await process_manager.stop(node, launch(home).paths, "uid-1", grace=1)).proved, "all of it is gone"


async def test_nothing_was_ever_started(home: Path, node: LocalTransport) -> None:
    run = await seen(node, launch(home))
    assert not run.claimed and not run.over and run.ranks == ()
    assert await process_manager.stop(node, launch(home).paths, "uid-1", grace=1) == Stopped((), (), proved=True)


async def test_a_run_that_was_seen_and_left_no_trace_proves_nothing(home: Path, node: LocalTransport) -> None:
    stopped = await process_manager.stop(node, launch(home).paths, "uid-1", grace=1, began=True)
    assert stopped == Stopped((), (), proved=False)


async def test_a_folder_of_another_master_is_put_aside_unless_it_is_in_use(home: Path, node: LocalTransport) -> None:
    storage = await process_manager.make_folder(node, "~/.ugro", "job-001", "uid-1")
    assert storage == await process_manager.make_folder(node, "~/.ugro", "job-002", "uid-2")
    script(home, "import time; time.sleep(600)")
    plan = launch(home)
    await start(node, plan)
    with pytest.raises(NodeRefused, match="another job-001, of another master, is running here"):
        await process_manager.make_folder(node, "~/.ugro", "job-001", "other")
    await process_manager.stop(node, plan.paths, plan.uid, grace=1)
    await process_manager.make_folder(node, "~/.ugro", "job-001", "other")
    assert [path.name.split(".")[0] for path in (home / ".ugro/jobs").glob("job-001.before-*")] == ["job-001"]


async def test_prepare_says_what_is_missing(home: Path, node: LocalTransport) -> None:
    real = LocalTransport(builders.this_machine(python=sys.executable))
    ready = await process_manager.prepare(real, ["127.0.0.2", "no such host"], ports=(29500, 30499))
    assert (
        ready.ways == (PeerRoute(peer="127.0.0.2", address="127.0.0.1", interface="lo"),)
        and ready.errors["no such host"]
    )
    assert ready.port and 29500 <= ready.port <= 30499
    assert ready.python == sys.version.split()[0] and ready.addresses["127.0.0.1"] == "lo"
    missing = LocalTransport(builders.this_machine(python="/no/python"))
    with pytest.raises(NodeRefused, match="/no/python cannot be run there"):
        await process_manager.prepare(missing, ["127.0.0.1"])


async def test_the_port_is_one_that_nothing_listens_on(home: Path) -> None:
    real = LocalTransport(builders.this_machine(python=sys.executable))
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    taken = server.sockets[0].getsockname()[1]
    found = await process_manager.prepare(real, ["127.0.0.1"], ports=(taken, taken + 50))
    assert found.port and found.port != taken
    server.close()
    await server.wait_closed()


def test_half_written_files_are_passed_over() -> None:
    text = (
        "@n clock 10.5 boot\n@n run\nclaim u\nrunner 7 boot alive\nrank x 1 alive\nrank 1 9 ended code\n"
        "rank 2 9 alive\nlimit 2 warned\nlimit 2 whatever\nlimit x ended\n@n run\n@n -\n"
    )
    first, second = parse_look(text, "n")
    assert first.runner_alive and first.ranks == (RankFiles(2, 9, True, limit="warned"),)
    assert second == RunFiles(node_time=10.5)
    assert parse_look(text, "m") == parse_look("", "n") == []
    assert parse_look(text.removesuffix("@n -\n"), "n") == [first]


async def test_no_file_of_a_run_speaks_for_another(home: Path, node: LocalTransport) -> None:
    plan = launch(home)
    folder = home / ".ugro/jobs/job-001/1/node-0"
    (folder / "claim").mkdir(parents=True)
    (folder / "claim/uid").write_text("uid-1\n")
    (folder / "exit").write_text("0 1\\c")
    (folder / "rank-0.pid").write_text("999999999 1\n")
    (folder / "rank-0.limit").write_text("ended 1760000000\n@0 run\nexit 0\n")
    other = replace(plan.paths, attempt=2)
    first, second = await look(node, [plan.paths, other])
    assert (first.uid, first.ranks) == ("uid-1", (RankFiles(0, 999999999, False, limit="ended"),))
    assert not second.claimed


def members(run: str) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environ = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if f"UGRO_RUN={run}".encode() in environ:
            found.append(int(folder.name))
    return found


def alive(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIG_DFL)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
