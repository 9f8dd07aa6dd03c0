"""Checkpoints: found on a node, judged complete or not by their structure, gathered over nodes, and brought here."""

from __future__ import annotations

import json
import os
import struct
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp

from ugro.common.errors import InputError, NodeRefused, StateError
from ugro.common.models.checkpoint import Checkpoint, FoundCheckpoint
from ugro.control_plane.metadata_store.checkpoint_store.gathering import gather, newest_whole
from ugro.control_plane.metadata_store.checkpoint_store.lineage import WritingAttempt
from ugro.nodes.remote.checkpoints import checkpoints
from ugro.nodes.transport import LocalTransport, Outcome
from ugro.testing import builders

STATE = {"weight": torch.zeros(64, 64)}


@pytest.fixture
async def here(home: Path) -> AsyncIterator[LocalTransport]:
    transport = LocalTransport(builders.this_machine(python=sys.executable))
    yield transport
    await transport.close()


async def found(here: LocalTransport, root: Path, pattern: str = "", since: float = 0) -> dict[str, FoundCheckpoint]:
    search = await checkpoints.find(here, str(root.parent / "job"), [str(root)], pattern, since)
    return {one.name: one for one in search.found}


async def test_what_a_job_saved_is_told_by_the_clock_of_its_own_files(here: LocalTransport, tmp_path: Path) -> None:
    """A file server two hours behind or ahead dates both the job's folder and its checkpoints."""
    claim, root = tmp_path / "job/1/node-0/claim", tmp_path / "out"
    claim.mkdir(parents=True)
    root.mkdir()
    now = time.time()
    for server in (-7200.0, 7200.0):
        os.utime(claim, (0, now + server))
        for name, at in (("checkpoint-1.pt", -60), ("checkpoint-2.pt", 60)):
            torch.save(STATE, root / name)
            os.utime(root / name, (0, now + server + at))
        assert set(await found(here, root, since=now)) == {"checkpoint-2.pt"}, server


def safetensors(path: Path, missing: int = 0) -> None:
    """A file with one tensor of 16 bytes, `missing` of which are not there."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(16 - missing))


def trainer_folder(folder: Path, step: int, told: Any = None) -> Path:
    """What Hugging Face's Trainer leaves, with the parts that are looked at."""
    folder.mkdir()
    safetensors(folder / "model.safetensors")
    torch.save(STATE, folder / "optimizer.pt")
    torch.save({"lr": 1}, folder / "training_args.bin")
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step if told is None else told}))
    return folder


# On a node


async def test_files_of_torch_save_are_whole_or_torn(here: LocalTransport, tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "checkpoint-10.pt")
    whole = (tmp_path / "checkpoint-10.pt").read_bytes()
    (tmp_path / "checkpoint-20.pt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "checkpoint-30.pt").write_bytes(b"")
    torch.save(STATE, tmp_path / "checkpoint-5.pt", _use_new_zipfile_serialization=False)
    seen = await found(here, tmp_path)
    assert [seen[f"checkpoint-{step}.pt"].step for step in (5, 10, 20, 30)] == [5, 10, 20, 30]
    assert seen["checkpoint-10.pt"].problem is None and seen["checkpoint-10.pt"].bytes == len(whole)
    assert "cut short" in str(seen["checkpoint-20.pt"].problem)
    assert "empty" in str(seen["checkpoint-30.pt"].problem)
    assert "before torch 1.6" in str(seen["checkpoint-5.pt"].problem)


@pytest.mark.parametrize(
    ("name", "content", "step"),
    [
        ("epoch=3-step=100.ckpt", {"global_step": 7}, 100),  # the name says it
        ("last.ckpt", {"epoch": 2, "global_step": 77, "state_dict": STATE}, 77),
        ("best.pth", {"model": STATE, "iteration": 12}, 12),
        ("last.pt", {"model": STATE}, None),
    ],
)
async def test_the_step_is_in_the_name_or_inside(
    here: LocalTransport, tmp_path: Path, name: str, content: Any, step: int | None
) -> None:
    torch.save(content, tmp_path / name)
    assert (await found(here, tmp_path))[name].step == step


async def test_a_file_that_is_cut_anywhere_is_never_whole(here: LocalTransport, tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "checkpoint-1.pt")
    whole = (tmp_path / "checkpoint-1.pt").read_bytes()
    for number, length in enumerate(range(0, len(whole), max(1, len(whole) // 200)), start=2):
        (tmp_path / f"checkpoint-{number}.pt").write_bytes(whole[:length])
    seen = await found(here, tmp_path)
    assert len(seen) > 150
    assert [name for name, one in seen.items() if one.problem is None] == ["checkpoint-1.pt"]


async def test_what_the_trainer_leaves(here: LocalTransport, tmp_path: Path) -> None:
    trainer_folder(tmp_path / "checkpoint-100", 100)
    trainer_folder(tmp_path / "checkpoint-200", 200, told=150)
    (trainer_folder(tmp_path / "checkpoint-300", 300) / "trainer_state.json").unlink()
    safetensors(trainer_folder(tmp_path / "checkpoint-400", 400) / "model.safetensors", missing=1)
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (trainer_folder(tmp_path / "checkpoint-500", 500) / "model.safetensors.index.json").write_text(json.dumps(index))
    seen = await found(here, tmp_path)
    assert {one.kind for one in seen.values()} == {"transformers"} and len(seen) == 5
    assert seen["checkpoint-100"].problem is None and seen["checkpoint-100"].files == 4
    assert "another step" in str(seen["checkpoint-200"].problem)
    assert "trainer_state.json is not there" in str(seen["checkpoint-300"].problem)
    assert "model.safetensors has" in str(seen["checkpoint-400"].problem)
    assert "model-00001-of-00002.safetensors is not there" in str(seen["checkpoint-500"].problem)


async def test_a_folder_is_the_trainers_by_its_own_marks_alone(here: LocalTransport, tmp_path: Path) -> None:
    """Diffusers, accelerate and people name their folders as the Trainer does, and leave no trainer_state.json."""

    def save(folder: str, *names: str) -> Path:
        (tmp_path / folder).mkdir(parents=True)
        for name in names:
            torch.save(STATE, tmp_path / folder / name)
        return tmp_path / folder

    safetensors(save("a/checkpoint-500", "optimizer.bin", "scheduler.bin") / "model.safetensors")
    safetensors(save("b/checkpoint-70", "model.pt", "optimizer.pt") / "more.safetensors", missing=1)
    save("c/checkpoint-70", "model.pt", "optimizer.pt")
    save("d/checkpoint-10", "model.pt", "training_args.bin")
    save("e/checkpoint-10", "rng_state_1.pth")  # of a rank whose node has no more of it
    save("f/checkpoint-20", "model.pt")  # cut short before any mark
    trainer_folder(tmp_path / "f/checkpoint-10", 10)
    seen = await found(here, tmp_path)
    kinds = {name: (one.kind, one.step, one.problem) for name, one in seen.items()}
    assert kinds["a/checkpoint-500"] == ("folder", 500, None) and kinds["c/checkpoint-70"] == ("folder", 70, None)
    assert kinds["b/checkpoint-70"][0] == "folder" and "more.safetensors has" in str(kinds["b/checkpoint-70"][2])
    missing = ("transformers", "trainer_state.json is not there")
    for name in ("d/checkpoint-10", "e/checkpoint-10", "f/checkpoint-20"):
        assert (kinds[name][0], kinds[name][2]) == missing
    assert not seen["a/checkpoint-500"].weights_only and kinds["f/checkpoint-10"] == ("transformers", 10, None)


async def test_the_trainers_other_ranks_leave_parts_that_are_whole_or_nothing(
    here: LocalTransport, tmp_path: Path
) -> None:
    for step in (100, 200):
        (tmp_path / f"checkpoint-{step}").mkdir()
        torch.save(STATE, tmp_path / f"checkpoint-{step}" / "rng_state_1.pth")
    whole = (tmp_path / "checkpoint-200" / "rng_state_1.pth").read_bytes()
    (tmp_path / "checkpoint-200" / "rng_state_2.pth").write_bytes(whole[:-10])
    seen = await found(here, tmp_path)
    assert seen["checkpoint-100"].problem and seen["checkpoint-100"].shards == ("rng_state_1.pth",)
    assert "rng_state_2.pth was cut short" in str(seen["checkpoint-200"].problem)
    assert seen["checkpoint-200"].shards == ()


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
async def test_a_distributed_checkpoint_names_its_parts(here: LocalTransport, tmp_path: Path) -> None:
    dcp.save({"model": STATE}, checkpoint_id=str(tmp_path / "step_20"), no_dist=True)
    dcp.save({"model": STATE}, checkpoint_id=str(tmp_path / "step_30"), no_dist=True)
    (tmp_path / "step_30" / ".metadata").unlink()
    seen = await found(here, tmp_path)
    assert seen["step_20"].shards == seen["step_20"].needs == ("__0_0.distcp",)
    assert seen["step_30"].needs is None
    assert [one.problem is None for one in gather({"here": seen.values()}, {})] == [True, False]


async def test_nothing_is_unpickled(here: LocalTransport, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "sprung"),)

    torch.save({"trap": Trap(), "step": 3}, tmp_path / "model.pt")
    (tmp_path / "step_4").mkdir()
    torch.save({"trap": Trap()}, tmp_path / "step_4" / ".metadata", _use_new_zipfile_serialization=False)
    (tmp_path / "step_4" / "__0_0.distcp").write_bytes(b"x")
    seen = await found(here, tmp_path)
    assert set(seen) == {"model.pt", "step_4"} and seen["model.pt"].step == 3
    assert not (tmp_path / "sprung").exists()


async def test_old_files_other_files_and_links_are_not_checkpoints(here: LocalTransport, tmp_path: Path) -> None:
    for name in ("checkpoint-1.pt", "checkpoint-2.pt", "notes.txt", "weights.pt"):
        torch.save(STATE, tmp_path / name)
    os.utime(tmp_path / "checkpoint-1.pt", (1000, 1000))
    (tmp_path / "checkpoint-3.pt").symlink_to("checkpoint-2.pt")
    (tmp_path / ".git").mkdir()
    torch.save(STATE, tmp_path / ".git" / "checkpoint-4.pt")
    assert set(await found(here, tmp_path, since=2000)) == {"checkpoint-2.pt"}
    assert set(await found(here, tmp_path, "we*.pt")) == {"weights.pt"}


async def test_hostile_files_cost_only_themselves(here: LocalTransport, tmp_path: Path) -> None:
    (tmp_path / "checkpoint-1.pt").write_bytes(os.urandom(5000))
    (tmp_path / "checkpoint-2.safetensors").write_bytes(struct.pack("<Q", 2**63) + b"{}")
    (tmp_path / "checkpoint-3.safetensors").write_bytes(struct.pack("<Q", 2) + b"[]")
    (tmp_path / "checkpoint-4").mkdir()
    (tmp_path / "checkpoint-4" / "trainer_state.json").write_text("[" * 100_000)
    state = trainer_folder(tmp_path / "checkpoint-7", 7) / "trainer_state.json"
    state.unlink()
    os.mkfifo(state)  # a reader that opens it waits
    (tmp_path / "line\nbreak 5.pt").write_bytes(b"PK\x05\x06")
    torch.save(STATE, tmp_path / "checkpoint-6.pt")
    seen = await found(here, tmp_path)
    assert len(seen) == 7
    assert [name for name, one in seen.items() if one.problem is None] == ["checkpoint-6.pt"]


async def test_a_directory_that_is_not_there_has_none(here: LocalTransport, tmp_path: Path) -> None:
    assert await found(here, tmp_path / "nothing") == {}


# Brought here


async def test_a_checkpoint_comes_as_it_is(here: LocalTransport, tmp_path: Path) -> None:
    folder = trainer_folder(tmp_path / "checkpoint-7", 7)
    (folder / "empty").touch()
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep" / "er" / "big").write_bytes(os.urandom(3_000_000))
    heard: list[tuple[int, int]] = []
    await checkpoints.fetch(here, str(folder), tmp_path / "copy", lambda done, total: heard.append((done, total)))
    originals = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    copies = {path.relative_to(tmp_path / "copy"): path.read_bytes() for path in (tmp_path / "copy").rglob("*.*")}
    assert (
        copies.items() <= originals.items() and (tmp_path / "copy" / "deep" / "er" / "big").stat().st_size == 3_000_000
    )
    total = sum(map(len, originals.values()))
    assert heard[-1] == (total, total) and [done for done, _ in heard] == sorted(done for done, _ in heard)
    await checkpoints.fetch(here, str(folder / "optimizer.pt"), tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == (folder / "optimizer.pt").read_bytes()


async def test_what_cannot_be_had_leaves_what_was_there(here: LocalTransport, tmp_path: Path) -> None:
    (tmp_path / "copy").write_text("the last good one")
    with pytest.raises(NodeRefused, match="there is nothing"):
        await checkpoints.fetch(here, str(tmp_path / "nothing"), tmp_path / "copy")
    assert (tmp_path / "copy").read_text() == "the last good one"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ('[["a", 1, "../evil"]]', "has the name"),
        ('[["a", 1, "/evil"]]', "has the name"),
        ('[["a", -1, "a"]]', "cannot be understood"),
        ('[["gone", 1, "a"]]', "received incomplete: gone: No such file"),
        ("5", "cannot be understood"),
    ],
)
async def test_a_node_that_lies_is_refused(tmp_path: Path, files: str, message: str) -> None:
    answer = f'{{"ugro": 1, "kind": "parts", "payload": {{"folder": "{tmp_path}", "files": {files}}}}}'
    node = Lying(builders.this_machine(python=sys.executable))
    node.answer = answer.encode()
    with pytest.raises((NodeRefused, StateError), match=message):
        await checkpoints.fetch(node, "/x", tmp_path / "inner" / "copy")
    await node.close()
    assert not (tmp_path / "evil").exists() and not (tmp_path / "inner" / "copy").exists()


class Lying(LocalTransport):
    """A node that names files of a checkpoint as it likes."""

    answer = b""

    async def run(self, script: str, args: Sequence[str] = (), **options: Any) -> Outcome:
        listing = b"Names the files of a checkpoint" in (options.get("data") or b"")
        return Outcome(0, self.answer) if listing else await super().run(script, args, **options)


# Over all nodes


def sighting(name: str = "checkpoint-10.pt", **fields: Any) -> FoundCheckpoint:
    told = {"path": f"/home/{name}", "kind": "torch", "step": 10, "bytes": 5, "files": 1, "saved_at": 100.0} | fields
    return FoundCheckpoint(name=name, **told)


def test_a_copy_that_is_whole_is_enough() -> None:
    [one] = gather({"gpu1": [sighting(problem="is empty")], "gpu2": [sighting(saved_at=130.0)]}, {"gpu2": 25.0})
    assert (one.problem, [place.node for place in one.places], one.split, one.saved_at) == (
        None,
        ["gpu2"],
        False,
        105.0,
    )


def trainers(*files: str, **fields: Any) -> FoundCheckpoint:
    return sighting("checkpoint-10", kind="transformers", shards=files, files=len(files), **fields)


def test_the_trainers_checkpoint_is_with_the_parts_of_other_nodes() -> None:
    first, second = trainers("model.safetensors", "rng_state_0.pth"), trainers("rng_state_1.pth", problem="no state")
    for order in ({"gpu1": first, "gpu2": second}, {"gpu2": second, "gpu1": first}):
        [one] = gather({node: [sighting] for node, sighting in order.items()}, {})
        assert one.problem is None and one.split and one.bytes == 10
        assert [place.node for place in one.places] == ["gpu1", "gpu2"]


def test_parts_of_ranks_in_the_trainers_folder_are_needed() -> None:
    first, second = (
        trainers("model.safetensors", "optimizer_rank0.pt"),
        trainers("optimizer_rank1.pt", problem="no state"),
    )
    runs = [WritingAttempt(attempt=1, since=0.0, nodes=("gpu1", "gpu2"), ranks=2)]
    [one] = gather({"gpu1": [first], "gpu2": [second]}, {}, runs)
    assert (one.problem, one.split, one.ranks) == (None, True, 2)
    [torn] = gather({"gpu1": [first]}, {}, runs)
    assert torn.problem == "lacks the parts of rank 1 of 2 ranks"


def test_what_the_trainer_left_on_other_nodes_does_not_always_count() -> None:
    first = trainers("model.safetensors", "rng_state_0.pth")
    for other in (first, trainers("rng_state_0.pth", problem="no state"), trainers(problem="was cut short")):
        [one] = gather({"gpu1": [first], "gpu2": [other]}, {})
        assert one.problem is None and not one.split and one.places[0].node == "gpu1"
    [torn] = gather(
        {"gpu1": [trainers("rng_state_1.pth", problem="x")], "gpu2": [trainers("a", "b", problem="torn")]}, {}
    )
    assert torn.problem == "torn" and not torn.split


def test_checkpoints_come_by_step() -> None:
    steps = [sighting(f"checkpoint-{step}.pt", step=step) for step in (100, 9, None)]
    assert [one.step for one in gather({"gpu1": steps}, {})] == [None, 9, 100]


def shards(*ranks: int, **fields: Any) -> FoundCheckpoint:
    return sighting("step_10", kind="distributed", shards=tuple(f"__{rank}_0.distcp" for rank in ranks), **fields)


def test_parts_on_several_nodes_are_one_checkpoint() -> None:
    all_of_them = shards(0, 1, 2).shards
    [one] = gather({"gpu1": [shards(0, 1, needs=all_of_them)], "gpu2": [shards(2, bytes=7)]}, {})
    assert one.problem is None and one.split and one.bytes == 12
    assert [place.node for place in one.places] == ["gpu1", "gpu2"]
    [torn] = gather({"gpu1": [shards(0, 1, needs=all_of_them)]}, {})
    assert "lacks 1 part that no node has (__2_0.distcp)" in str(torn.problem)
    [unfinished] = gather({"gpu1": [shards(0, 1)], "gpu2": [shards(2)]}, {})
    assert ".metadata" in str(unfinished.problem)


def test_a_shared_disk_has_one_checkpoint() -> None:
    both = shards(0, 1, needs=shards(0, 1).shards)
    [one] = gather({"gpu1": [both], "gpu2": [both]}, {})
    assert not one.split and one.problem is None and one.bytes == 5 and len(one.places) == 2


def test_deepspeeds_ranks_are_all_there_or_not() -> None:
    def parts(*ranks: int) -> FoundCheckpoint:
        names = tuple(f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt" for rank in ranks)
        return sighting("global_step10", kind="deepspeed", shards=names)

    [one] = gather({"gpu1": [parts(0, 2)], "gpu2": [parts(1)]}, {})
    assert one.problem is None and one.split
    [torn] = gather({"gpu1": [parts(0, 2)]}, {})
    assert "lacks" in str(torn.problem)


def checkpoint(step: int | None, problem: str | None = None, saved_at: float = 0.0) -> Checkpoint:
    return Checkpoint(step=step, kind="torch", name=f"c-{step}", bytes=1, saved_at=saved_at, places=(), problem=problem)


def test_the_furthest_whole_one_is_chosen_and_never_a_torn_one() -> None:
    there = [checkpoint(None), checkpoint(4900), checkpoint(4950), checkpoint(5000, "was cut short")]
    assert newest_whole(there).step == 4950
    assert newest_whole(there, 4900).step == 4900
    with pytest.raises(InputError, match="c-5000 was cut short") as refusal:
        newest_whole(there, 5000)
    assert "4900, 4950" in refusal.value.hint
    with pytest.raises(InputError, match="no checkpoint of step 1"):
        newest_whole(there, 1)
    with pytest.raises(InputError, match="no checkpoint was found") as refusal:
        newest_whole([])
    assert "--checkpoints" in refusal.value.hint
