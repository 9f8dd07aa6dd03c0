"""Observing a node: the files of its runs and the probe in one round trip."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ugro.common.errors import CommandTimedOut, NodeRefused
from ugro.common.models.run import RankFiles
from ugro.common.paths import RunPaths
from ugro.common.text import printable
from ugro.nodes.remote import observer
from ugro.nodes.remote.gpus import gpu_monitor
from ugro.nodes.remote.gpus.gpu_monitor import NO_ANSWER
from ugro.nodes.remote.observer import observe
from ugro.nodes.remote.run.run_files import look
from ugro.testing import builders
from ugro.testing.transport import Counting

GPU = "GPU-5c1e0a7e-1111-2222-3333-444455556666"
HEADER = "index, uuid, memory.total [MiB], memory.used [MiB], memory.free [MiB], name"
SMI = f"""case $* in
*--query-gpu=*) echo '{HEADER}'; echo '0, {GPU}, 24564, 13, 24551, NVIDIA GeForce RTX 4090' ;;
*) echo 'gpu_uuid, pid, used_gpu_memory [MiB], process_name' ;;
esac"""


@pytest.fixture
async def here(home: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Counting]:
    monkeypatch.setenv("PATH", f"{home}/bin:{os.environ['PATH']}")
    (home / "bin").mkdir()
    transport = Counting(builders.this_machine())
    yield transport
    await transport.close()


def nvidia_smi(home: Path, body: str) -> Path:
    """Puts an nvidia-smi on PATH. Returns the file with a line for each call of it."""
    program = home / "bin/nvidia-smi"
    program.write_text(f"#!/bin/sh\necho x >>{home}/calls\n{body}\n")
    program.chmod(0o755)
    return home / "calls"


def run(home: Path, number: int, **files: str) -> RunPaths:
    """A run on this machine, with these files in its folder."""
    paths = RunPaths("~/.ugro", f"job-00{number}", 1, 0)
    folder = home / f".ugro/jobs/job-00{number}/1/node-0"
    (folder / "claim").mkdir(parents=True)
    (folder / "claim/uid").write_text(f"uid-{number}\n")
    for name, text in files.items():
        (folder / name.replace("__", ".").replace("_", "-")).write_text(text)
    return paths


async def test_view_and_files_come_in_one_round_trip(home: Path, here: Counting) -> None:
    nvidia_smi(home, SMI)
    runs = [
        run(home, 1, exit="0 1760000000\n", rank_0__pid="999999999 1\n", rank_0__limit="warned 1760000000\n"),
        RunPaths("~/.ugro", "job-002", 1, 0),
        run(home, 3),
    ]
    view, files = await observe(here, runs)
    assert here.asks == 1
    assert files[0].ranks == (RankFiles(0, 999999999, False, limit="warned"),)
    assert [(file.claimed, file.uid, file.exit_code) for file in files] == [
        (True, "uid-1", 0), (False, None, None), (True, "uid-3", None)
    ]  # fmt: skip
    alone = await gpu_monitor.look(here)
    volatile = {"seen_at", "clock_offset", "load_1m", "memory_available_mib", "disk_free_mib"}
    assert view.model_dump(exclude=volatile) == alone.model_dump(exclude=volatile)
    assert [gpu.uuid for gpu in view.gpus] == [GPU] and view.gpu_problem is None
    assert abs(view.clock_offset) < 0.2 and view.disk_free_mib
    again = await look(here, runs)
    assert [(file.uid, file.ranks) for file in again] == [(file.uid, file.ranks) for file in files]


async def test_observes_a_node_without_runs(here: Counting) -> None:
    view, files = await observe(here, [])
    assert files == [] and view.cpu_count and (view.gpus, view.gpu_problem, view.owner) == ((), None, None)


async def test_files_cannot_forge_sections(home: Path, here: Counting) -> None:
    forged = "0 1\n@0 run\nexit 9\nrun\n@$1 node\n@ node\nboot_id=x\n@* end 1\n\\c"
    (home / "base").mkdir()
    (home / "base/owner").write_text("me\n@ node\ncpus=999\n")
    here.node = here.node.model_copy(update={"base_dir": "~/base"})
    view, files = await observe(here, [run(home, 1, exit=forged, rank_0__limit=forged), run(home, 2)])
    assert [file.uid for file in files] == ["uid-1", "uid-2"]
    assert files[1].exit_code is None
    assert view.owner == "me" and view.cpu_count < 999
    assert view.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@pytest.mark.parametrize(
    ("text", "owner"),
    [
        ("master laptop 1a2b\nsecond line\n", "master laptop 1a2b"),
        ("a=b \x1b[31m\\n'$(id)'", printable("a=b \x1b[31m\\n'$(id)'")),
        ("x" * 5000, "x" * 200),
        ("", None),
        ("\nmine\n", None),
    ],
)
async def test_the_owner_of_a_node(home: Path, here: Counting, text: str, owner: str | None) -> None:
    (home / ".ugro").mkdir()
    (home / ".ugro/owner").write_text(text)
    view, _ = await observe(here, [])
    assert view.owner == owner
    assert (await gpu_monitor.look(here)).owner == view.owner


async def test_a_gpu_that_hangs_hides_neither_files_nor_owner(
    home: Path, here: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if nvidia-smi could not even be killed: the whole look runs out of time."""
    (home / ".ugro").mkdir()
    (home / ".ugro/owner").write_text("me\n")
    calls = nvidia_smi(home, "exec sleep 3")
    runs = [run(home, 1), run(home, 2)]
    for _ in range(2):
        view, files = await observe(here, runs, timeout=1)
        assert [file.uid for file in files] == ["uid-1", "uid-2"]
        assert (view.owner, view.gpus, view.gpu_problem) == ("me", (), NO_ANSWER)
    assert calls.read_text() == "x\n", "one stuck process is enough"
    nvidia_smi(home, SMI)
    assert (await observe(here, runs))[0].gpu_problem == NO_ANSWER
    monkeypatch.setattr(observer.time, "monotonic", lambda real=observer.time.monotonic: real() + observer.HANG_PAUSE)
    for _ in range(2):
        view, _ = await observe(here, runs)
        assert (view.gpu_problem, len(view.gpus)) == (None, 1)


async def test_gpus_are_shown_as_they_were_when_one_began_to_hang(
    home: Path, here: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observer, "SMI_TIMEOUT", 1)
    nvidia_smi(home, SMI.replace("*) echo 'gpu_uuid", "*) sleep 3; echo 'gpu_uuid"))
    seen = [(await observe(here, []))[0] for _ in range(2)]
    assert [[gpu.uuid for gpu in view.gpus] for view in seen] == [[GPU]] * 2
    assert seen[0].gpu_problem == seen[1].gpu_problem and NO_ANSWER in (seen[0].gpu_problem or "")
    assert seen[1].seen_at > seen[0].seen_at


async def test_a_node_that_does_not_get_to_the_point_is_an_error(home: Path, here: Counting) -> None:
    (home / "bin/date").write_text("#!/bin/sh\nexec sleep 3\n")
    (home / "bin/date").chmod(0o755)
    with pytest.raises(CommandTimedOut):
        await observe(here, [], timeout=0.5)


async def test_refuses_an_observation_that_lacks_a_run(here: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observer, "parse_look", lambda *_: [])
    with pytest.raises(NodeRefused, match="0 of 1 came"):
        await observe(here, [RunPaths("~/.ugro", "job-001", 1, 0)])
