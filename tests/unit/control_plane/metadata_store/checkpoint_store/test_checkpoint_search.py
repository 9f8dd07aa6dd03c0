"""What is found on a node: the step of a name, the parts of ranks, and what lies behind links; files are torch's."""

from __future__ import annotations

import json
import os
import struct
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from code_folders import plant
from envelopes import envelope

from ugro.common.errors import NodeRefused
from ugro.common.models.checkpoint import Checkpoint, FoundCheckpoint
from ugro.control_plane.metadata_store.checkpoint_store.gathering import gather, newest_whole
from ugro.control_plane.metadata_store.checkpoint_store.lineage import WritingAttempt
from ugro.control_plane.metadata_store.checkpoint_store.parts import lacking, ranks_in
from ugro.nodes.remote.checkpoints import checkpoints
from ugro.nodes.remote.run.on_node.rank import own_checkpoint
from ugro.nodes.transport import LocalTransport
from ugro.testing import builders

WEIGHTS = {"weight": torch.zeros(4)}
FULL = {"model": WEIGHTS, "optimizer": {"state": {0: {"step": 5, "exp_avg": torch.zeros(4)}}}}


@pytest.fixture
async def here(home: Path) -> AsyncIterator[LocalTransport]:
    transport = LocalTransport(builders.this_machine(python=sys.executable))
    yield transport
    await transport.close()


async def search(here: LocalTransport, root: Path) -> checkpoints.SearchResult:
    return await checkpoints.find(here, str(root / "no-job"), [str(root)], "", 0.0)


async def found(here: LocalTransport, root: Path) -> dict[str, FoundCheckpoint]:
    return {one.name: one for one in (await search(here, root)).found}


def save(path: Path, content: Any = FULL) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


# The step of a name


@pytest.mark.parametrize(
    ("name", "content", "step", "epoch"),
    [
        ("best_acc_0.9312.pt", WEIGHTS, None, None),
        ("yolov8n.pt", WEIGHTS, None, None),
        ("resnet50-0676ba61.pth", WEIGHTS, None, None),
        ("resnet18-f37072fd.pth", WEIGHTS, None, None),
        ("vit_b_16.pt", WEIGHTS, None, None),
        ("model_batch32.pt", WEIGHTS, None, None),
        ("checkpoint_best_0.93.pt", WEIGHTS, None, None),
        ("checkpoint-0.93.pt", WEIGHTS, None, None),
        ("timestep_10_model.pt", WEIGHTS, None, None),
        ("model_100.pt", FULL, 5, None),  # what the optimizer has counted
        ("model_100.pt", FULL | {"global_step": 900}, 900, None),
        ("last.pt", FULL | {"step": 77}, 77, None),
        ("last.pt", {"step": 77} | FULL, 77, None),
        ("snapshot.pt", {"MODEL_STATE": WEIGHTS, "EPOCHS_RUN": 3}, None, 3),
        ("best.pt", {"model": WEIGHTS, "epoch": 3, "optimizer": {}}, None, 3),
        ("best_step_7.pt", {"global_step": 9}, 7, None),
        ("epoch=3-step=100.ckpt", WEIGHTS, 100, 3),
        ("epoch_3.pth", WEIGHTS, None, 3),
        ("checkpoint_epoch_3.pt", {"model": WEIGHTS, "epoch": 3, "global_step": 60}, 60, 3),
        ("ep1-ba20.pt", WEIGHTS, 20, 1),
        ("iter_0000020.pt", WEIGHTS, 20, None),
        ("snapshot_20261127.pt", WEIGHTS, None, None),  # when it was saved is no step
        ("snapshot_20261127.pt", FULL | {"global_step": 30}, 30, None),
        ("snapshot_20261127-153000.pt", WEIGHTS, None, None),
        ("ckpt_20261127153000.pt", WEIGHTS, None, None),
        ("ckpt_2026-11-27.pt", WEIGHTS, None, None),
        ("ckpt_27-11-2026.pt", WEIGHTS, None, None),
        ("ckpt_2026_11_27_step_40.pt", WEIGHTS, 40, None),
        ("checkpoint-1764268800.pt", WEIGHTS, None, None),
        ("checkpoint-1764268800123.pt", WEIGHTS, None, None),
        ("checkpoint-20260000.pt", WEIGHTS, 20260000, None),  # there is no such day
        ("ckpt-2026.pt", WEIGHTS, 2026, None),
        ("step100_ckpt2.pt", WEIGHTS, 100, None),
        ("model_epoch3_step200_ckpt2.pt", WEIGHTS, 200, 3),
        ("ckpt2_iter_300.pt", WEIGHTS, 300, None),
        ("step-20261127.pt", WEIGHTS, 20261127, None),  # the word says so
        ("checkpoint-2-of-3.pt", WEIGHTS, None, None),
        ("ckpt_2_of_3_step_40.pt", WEIGHTS, 40, None),
        ("ckpt-40.pt", WEIGHTS, 40, None),
        ("model_steps_50.pt", WEIGHTS, 50, None),
        ("global_step60.pt", WEIGHTS, 60, None),
    ],
)
async def test_only_a_word_makes_a_number_a_step(
    here: LocalTransport, tmp_path: Path, name: str, content: Any, step: int | None, epoch: int | None
) -> None:
    save(tmp_path / name, content)
    [one] = (await found(here, tmp_path)).values()
    assert (one.step, one.epoch) == (step, epoch)


async def test_weights_without_an_optimizer_are_known(here: LocalTransport, tmp_path: Path) -> None:
    save(tmp_path / "step-10.pt")
    save(tmp_path / "step-20.pt", WEIGHTS)
    header = b'{"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'
    (tmp_path / "step-30.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))
    save(tmp_path / "step-40" / "model.pt", WEIGHTS)
    save(tmp_path / "step-50" / "model.pt", WEIGHTS)
    save(tmp_path / "step-50" / "optimizer.pt", WEIGHTS)
    seen = await found(here, tmp_path)
    assert {one.step: one.weights_only for one in seen.values()} == {10: False, 20: True, 30: True, 40: True, 50: False}
    assert newest_whole(gather({"a": seen.values()}, {})).step == 50


async def test_the_metadata_of_safetensors_may_tell_of_a_step(here: LocalTransport, tmp_path: Path) -> None:
    for name, told in (("last", {"Step": "70", "format": "pt"}), ("best", {"step": "many"}), ("model", None)):
        header = json.dumps({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}, "__metadata__": told or {}})
        (tmp_path / f"{name}.safetensors").write_bytes(struct.pack("<Q", len(header)) + header.encode() + bytes(16))
    seen = await found(here, tmp_path)
    assert {name: one.step for name, one in seen.items()} == {
        "last.safetensors": 70, "best.safetensors": None, "model.safetensors": None,
    }  # fmt: skip


async def test_the_folder_tells_of_a_file_that_has_only_a_date(here: LocalTransport, tmp_path: Path) -> None:
    save(tmp_path / "step-500" / "snapshot_20261127.pt")
    save(tmp_path / "checkpoint-1764268800" / "model.pt", WEIGHTS)
    seen = await found(here, tmp_path)
    assert {name: one.step for name, one in seen.items()} == {"step-500": 500, "checkpoint-1764268800": None}


async def test_a_folder_that_has_several_checkpoints_is_none(here: LocalTransport, tmp_path: Path) -> None:
    for step in (10, 20):
        save(tmp_path / "epoch_1" / f"step_{step}.pt")
    save(tmp_path / "epoch_2" / "step_30" / "model.pt")
    assert set(await found(here, tmp_path)) == {"epoch_1/step_10.pt", "epoch_1/step_20.pt", "epoch_2/step_30"}


# Parts of ranks

LAYOUTS = [
    ("out/iter_0000020/mp_rank_0{0}/model_optim_rng.pt", "out/iter_0000020", 20),
    ("out/iter_0000020/mp_rank_00_00{0}/model_optim_rng.pt", "out/iter_0000020", 20),
    ("ck/ep1-ba20-rank{0}.pt", "ck/ep1-ba20-rank{rank}.pt", 20),
    ("ckpt_rank{0}.pt", "ckpt_rank{rank}.pt", 5),
    ("epoch_3_rank_{0}.pth", "epoch_3_rank_{rank}.pth", 5),
    ("step-100/rank_{0}.pt", "step-100", 100),
    ("step-100/rank{0}/model.pt", "step-100", 100),
    ("checkpoint-100/rank_{0}.pt", "checkpoint-100", 100),
    ("global_step_20/actor/model_world_size_3_rank_{0}.pt", "global_step_20", 20),
    ("rank{0}/step-100.pt", "rank{rank}/step-100.pt", 100),
    ("rank_00{0}/step-100/model.pt", "rank_{rank:03d}/step-100", 100),
    ("step-7/optimizer_rank-{0}-of-3.pt", "step-7", 7),
    ("step7-optimizer_rank-{0}-of-3.pt", "step7-optimizer_rank-{rank}-of-3.pt", 7),
    ("step7_model_world_size_3_rank_{0}.pt", "step7_model_world_size_3_rank_{rank}.pt", 7),
    ("step7-model_part-0000{1}-of-00003.pt", "step7-model_part-{part:05d}-of-00003.pt", 7),
]
"""Where rank {0} saves, the name of all parts together, and their step."""


def gathered(nodes: dict[str, Sequence[FoundCheckpoint]], ranks: int = 3) -> list[Checkpoint]:
    run = WritingAttempt(attempt=1, since=0.0, nodes=("a", "b", "c"), ranks=ranks)
    return gather(nodes, {}, [run])


@pytest.mark.parametrize(("layout", "name", "step"), LAYOUTS)
async def test_the_parts_of_all_ranks_are_one_checkpoint(
    here: LocalTransport, tmp_path: Path, layout: str, name: str, step: int
) -> None:
    nodes: dict[str, Sequence[FoundCheckpoint]] = {}
    for rank, node in enumerate("abc"):
        save(tmp_path / node / layout.format(rank, rank + 1))
        nodes[node] = (await search(here, tmp_path / node)).found
    [one] = gathered(nodes)
    assert (one.name, one.step, one.problem, one.split, len(one.places)) == (name, step, None, True, 3)
    for lost in "abc":  # whichever it is, also the last
        [torn] = gathered({node: parts for node, parts in nodes.items() if node != lost})
        assert torn.problem and ("lacks" in torn.problem or "cannot be shown" in torn.problem), lost
    # on a disk that all nodes share it is complete in one place
    for rank in range(3):
        save(tmp_path / "all" / layout.format(rank, rank + 1))
    parts = (await search(here, tmp_path / "all")).found
    [shared] = gathered({"a": parts, "b": parts, "c": parts})
    assert (shared.name, shared.problem, shared.split) == (name, None, False)
    assert shared.whole_at["b"] == str(tmp_path / "all" / name)


@pytest.mark.parametrize(("layout", "name", "step"), [layout for layout in LAYOUTS if "{" in layout[1]])
async def test_the_parts_of_ranks_come_together(
    here: LocalTransport, tmp_path: Path, layout: str, name: str, step: int
) -> None:
    for rank in range(3):
        save(tmp_path / "root" / layout.format(rank, rank + 1), {"rank": rank, "step": 5})
    save(tmp_path / "root" / "other" / "big.pt")
    [one] = [one for one in gathered({"a": (await search(here, tmp_path / "root")).found}) if one.name == name]
    [place] = one.places
    await checkpoints.fetch(here, place.path, tmp_path / "copy", names=place.files)
    brought = sorted(path.relative_to(tmp_path / "copy") for path in (tmp_path / "copy").rglob("*.p*"))
    first = one.own_name.format(rank=0, part=1)
    assert (tmp_path / "copy" / first).exists() and len(brought) == 3
    assert [torch.load(tmp_path / "copy" / path)["rank"] for path in brought] == [0, 1, 2]


async def test_parts_of_different_steps_are_not_one_checkpoint(here: LocalTransport, tmp_path: Path) -> None:
    nodes = {}
    for node, rank, step in (("a", 0, 30), ("b", 1, 20), ("c", 2, 30)):
        save(tmp_path / node / f"ckpt_rank{rank}.pt", {"step": step, "optimizer": {}})
        nodes[node] = (await search(here, tmp_path / node)).found
    assert [(one.step, bool(one.problem)) for one in gathered(nodes)] == [(20, True), (30, True)]


async def test_a_part_that_is_torn_is_named(here: LocalTransport, tmp_path: Path) -> None:
    for rank in range(2):
        save(tmp_path / f"step-5-rank{rank}.pt")
    (tmp_path / "step-5-rank1.pt").write_bytes(b"PK")
    [one] = gathered({"a": (await search(here, tmp_path)).found}, ranks=2)
    assert one.problem == "step-5-rank1.pt was cut short: it has no directory at its end"


@pytest.mark.parametrize(
    "name", ["lora_rank16/step-5.pt", "rank16_step-5.pt", "low-rank-2/step-5.pt", "{rank}/step-5.pt"]
)
async def test_the_rank_of_a_matrix_is_no_rank(here: LocalTransport, tmp_path: Path, name: str) -> None:
    save(tmp_path / name)
    [one] = gathered({"a": (await search(here, tmp_path)).found})
    assert (one.name, one.problem, one.ranks, one.step) == (name, None, None, 5)


async def test_megatrons_sizes_are_read_from_its_arguments(here: LocalTransport, tmp_path: Path) -> None:
    def saved(folder: str, *ranks: int, **sizes: int) -> Path:
        for rank in ranks:
            save(tmp_path / folder / f"mp_rank_0{rank}" / "model_optim_rng.pt", {"args": sizes, "optimizer": {}})
        return tmp_path / folder

    sizes = {"tensor_model_parallel_size": 2, "pipeline_model_parallel_size": 1}
    saved("iter_0000010", 0, 1, **sizes)  # of four ranks, two each have the same part
    saved("iter_0000020", 0, **sizes)
    saved("iter_0000030", 0, 1)
    saved("other/iter_0000040", 0, 1)
    (tmp_path / "other" / "latest_checkpointed_iteration.txt").write_text("40")
    seen = (await search(here, tmp_path)).found
    everywhere = {"a": seen, "b": [], "c": []}
    problems = {one.step: one.problem or "" for one in gathered(everywhere, ranks=4)}
    assert problems[10] == "" and "1 of 2 are there" in problems[20] and "cannot be shown" in problems[30]
    assert problems[40] == "", "Megatron noted its end"
    assert "cannot be shown" in str(gathered({"a": seen}, ranks=4)[-1].problem), "b and c may have more of it"


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
async def test_shards_within_a_folder_of_the_trainer_are_needed(here: LocalTransport, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-20"
    dcp.save({"model": WEIGHTS}, checkpoint_id=str(folder / "pytorch_model_fsdp_0"), no_dist=True)
    (folder / "trainer_state.json").write_text('{"global_step": 20}')
    assert gathered({"a": (await search(here, tmp_path)).found})[0].problem is None
    (folder / "pytorch_model_fsdp_0" / "__0_0.distcp").rename(folder / "pytorch_model_fsdp_0" / "__9_0.distcp")
    assert "pytorch_model_fsdp_0/__0_0.distcp" in str(gathered({"a": (await search(here, tmp_path)).found})[0].problem)


@pytest.mark.parametrize(
    ("names", "ranks", "problem"),
    [
        (["zero_pp_rank_0_mp_rank_00_optim_states.pt", "zero_pp_rank_1_mp_rank_00_optim_states.pt"], 2, None),
        (["zero_pp_rank_0_mp_rank_00_optim_states.pt", "zero_pp_rank_1_mp_rank_00_optim_states.pt"], 3, "lacks 1 part"),
        (["zero_pp_rank_0_mp_rank_00_optim_states.pt", "layer_01-model_states.pt"], 2, None),  # a pipeline
        (["mp_rank_00/m.pt", "mp_rank_02/m.pt"], 2, "mp_rank_01"),
        (["mp_rank_00_000/m.pt", "mp_rank_01_001/m.pt"], 4, "mp_rank_00_001"),
        (["mp_rank_00/m.pt", "mp_rank_00_001/m.pt"], 4, "several layouts"),
        (["rank_0.pt", "rank_2.pt"], None, "lacks the parts of rank 1 of 3 ranks"),
        (["rank_0.pt"], 3, "lacks the parts of ranks 1, 2 of 3 ranks"),
        (["o_rank-1-of-2.pt", "o_rank-2-of-2.pt"], 2, None),  # counted from 1
        (["model.pt", "rng_state_1.pth"], 3, None),
    ],
)
def test_what_is_lacking(names: list[str], ranks: int | None, problem: str | None) -> None:
    told = lacking(names, ranks, None, False)
    assert told is None if problem is None else problem in str(told)


def test_shards_that_every_rank_reads_are_of_no_rank() -> None:
    names = [f"model-0000{part}-of-00004.safetensors" for part in range(1, 5)]
    assert lacking(names, 2, None, False) is None and ranks_in(names, 2, False) is None
    assert "of 4 ranks" in str(lacking(names[:3], 2, None, False))


# What lies behind links


async def test_a_linked_folder_of_the_job_is_searched(here: LocalTransport, tmp_path: Path) -> None:
    save(tmp_path / "bigdisk" / "deep" / "step-10.pt")
    save(tmp_path / "scratch" / "step-20.pt")
    root = plant(tmp_path / "code", {"train.py": ""})
    (root / "runs").symlink_to("../bigdisk")
    (root / "step-20.pt").symlink_to(tmp_path / "scratch" / "step-20.pt")
    seen = await found(here, root)
    assert set(seen) == {"runs/deep/step-10.pt", "step-20.pt"}
    assert seen["runs/deep/step-10.pt"].path == str(root / "runs/deep/step-10.pt")
    await checkpoints.fetch(here, seen["step-20.pt"].path, tmp_path / "copy")
    assert torch.load(tmp_path / "copy")["model"]


async def test_links_are_followed_once_and_in_no_circle(here: LocalTransport, tmp_path: Path) -> None:
    root = plant(tmp_path / "code", {"train.py": "", "sub/x": ""})
    save(root / "out" / "step-10.pt")
    save(tmp_path / "disk" / "step-30.pt")
    links = {"again": "out", "self": ".", "up": "..", "sub/up": "..", "first": "../disk", "second": "../disk"}
    for name, target in links.items():
        (root / name).symlink_to(target)
    (tmp_path / "disk" / "self").symlink_to(".")
    searched = await search(here, root)
    assert sorted(one.name for one in searched.found) == ["first/step-30.pt", "out/step-10.pt"]
    assert searched.passed == (f"{root}/first/self: a link in a linked folder",)


async def test_what_is_linked_and_named_too_is_found_once(here: LocalTransport, tmp_path: Path) -> None:
    root = plant(tmp_path / "code", {"train.py": "", "out/x": ""})
    save(tmp_path / "disk" / "runs" / "step-10.pt")
    (root / "runs").symlink_to("../disk/runs")
    roots = [str(root), str(root / "out"), str(tmp_path / "disk")]
    assert [one.name for one in (await checkpoints.find(here, f"{roots[0]}/no-job", roots, "", 0.0)).found] == [
        "runs/step-10.pt"
    ]


async def test_what_is_not_searched_is_named(here: LocalTransport, tmp_path: Path) -> None:
    root = plant(tmp_path / "code", {"train.py": ""})
    (root / "nowhere").symlink_to("/nothing/here\nor there")
    deep = root.joinpath(*map(str, range(20)))
    save(deep / "step-10.pt")
    searched = await search(here, root)
    assert searched.found == [] and len(searched.passed) == 2
    assert searched.passed[0].endswith("/16: more than 16 folders deep")
    assert searched.passed[1] == f"{root}/nowhere: a link to nothing"


async def test_what_training_tools_leave_is_searched(here: LocalTransport, tmp_path: Path) -> None:
    save(tmp_path / "mlruns" / "0" / "abc" / "checkpoints" / "epoch=1-step=20.ckpt")
    save(tmp_path / ".venv" / "lib" / "step-10.pt")
    assert [one.step for one in (await found(here, tmp_path)).values()] == [20]
    os.mkfifo(tmp_path / "step-30.pt")
    assert len(await found(here, tmp_path)) == 1


@pytest.mark.parametrize("names", [("../out",), ("/etc",), ("a/../..", "x"), ("rank0.pt", "../x")])
async def test_a_node_whose_names_lead_elsewhere_is_refused(
    here: LocalTransport, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]
) -> None:
    told = {"path": "/c", "name": names[0], "kind": "torch", "step": 1, "bytes": 1, "files": 1, "saved_at": 1.0}
    answer = envelope("checkpoints", json.dumps({"found": [told | {"shards": names[1:]}], "passed": []}))
    monkeypatch.setattr("ugro.nodes.remote.python.load", lambda name: f"print({answer.decode()!r})")
    with pytest.raises(NodeRefused, match="cannot be understood"):
        await search(here, Path("/c"))


# What each rank gets


@pytest.mark.parametrize(
    ("template", "own"),
    [
        ("/c/ck/ep1-ba20-rank{rank}.pt", "/c/ck/ep1-ba20-rank2.pt"),
        ("/c/rank_{rank:03d}/step-5", "/c/rank_002/step-5"),
        ("/c/m-{part:05d}-of-00004.pt", "/c/m-00003-of-00004.pt"),
    ],
)
def test_each_rank_is_told_of_its_own_part(template: str, own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["t.py", "--resume-from", template, f"load={template}"]
    monkeypatch.setenv("UGRO_RESUME_FROM", template)
    assert own_checkpoint(command, 2) == (command, {}), "it is a name like any other"
    monkeypatch.setenv("UGRO_RESUME_EACH", "1")
    told = ["t.py", "--resume-from", own, f"load={own}"]
    assert own_checkpoint(command, 2) == (told, {"UGRO_RESUME_FROM": own})
