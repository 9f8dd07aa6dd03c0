"""What a new attempt changes: arguments by any of their spellings, a smaller batch that sees as much, a node less."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.control_plane.failure_handler.recovery.test_next_attempt import job
from ugro.common.errors import InputError, Unreachable
from ugro.common.job_spec import JobSpec
from ugro.common.models.argument_change import ArgumentChange
from ugro.common.models.job import Job, NodeShare, Placement
from ugro.control_plane.failure_handler.recovery.repair import left_out, smaller_batch
from ugro.control_plane.resource_manager.governor import Capacity, Slot
from ugro.control_plane.scheduler.arguments import options_of, with_changes

ADDS = "parser.add_argument(%s, type=int, default=%s)"


@pytest.mark.parametrize(
    ("args", "wanted", "after"),
    [
        (["--batch-size", "8", "x"], {"batch_size": "1"}, ["--batch-size", "1", "x"]),
        (["--batch_size=8"], {"batch-size": "1"}, ["--batch_size=1"]),
        (["--lr", "-1e-3"], {"lr": "2"}, ["--lr", "2"]),
        (["--lr", "1", "--lr", "2"], {"--lr": "3"}, ["--lr", "1", "--lr", "3"]),
        (["batch_size=8"], {"batch_size": "1"}, ["batch_size=1"]),
        (["--name", "=x"], {"name": "y"}, ["--name", "y"]),
        ([], {"batch_size": "1"}, ["--batch_size", "1"]),
        (["--flag", "--other"], {"flag": "1"}, ["--flag", "--other", "--flag", "1"]),
    ],
)
def test_a_value_is_changed_where_it_stands(args: list[str], wanted: dict[str, str], after: list[str]) -> None:
    assert with_changes(args, wanted)[0] == tuple(after)


def test_what_changed_is_told_and_the_same_is_no_change() -> None:
    words, changes = with_changes(["--a", "1", "--b", "2"], {"a": "5", "b": "2", "c": "3"})
    assert words == ("--a", "5", "--b", "2", "--c", "3")
    assert changes == (
        ArgumentChange(name="--a", before="1", after="5"),
        ArgumentChange(name="--c", before=None, after="3"),
    )
    assert changes[0].text == "--a 1 → 5" and changes[1].text == "--c (not given) → 3"


def test_an_argument_is_added_as_the_script_spells_it_or_not_at_all() -> None:
    known = options_of("parser.add_argument('--batch-size', type=int)\nadd(\"--lr\")\nprint('--not an option')")
    assert known == ("--batch-size", "--lr")
    assert with_changes([], {"batch_size": "1"}, known)[0] == ("--batch-size", "1")
    with pytest.raises(InputError, match="no argument 'bacth_size'") as refusal:
        with_changes([], {"bacth_size": "1"}, known)
    assert "--batch-size, --lr" in refusal.value.hint


@pytest.mark.parametrize(
    ("args", "script", "told"),
    [
        (["--batch-size", "8"], "", ["--batch-size 8 → 4"]),
        (["--batch-size", "8"], "'--grad-accum'", ["--batch-size 8 → 4", "--grad-accum (not given) → 2"]),
        (["--per_device_train_batch_size=4", "--gradient_accumulation_steps=3", "--batch_size", "9"], "",
         ["--per_device_train_batch_size 4 → 2", "--gradient_accumulation_steps 3 → 6"]),
        (["--batch_size", "5", "--accum", "2"], "", ["--batch_size 5 → 2", "--accum 2 → 5"]),
        ([], ADDS % ("'--bs', '--batch-size'", 8), ["--batch-size (not given) → 4"]),
        (["--bs", "6"], ADDS % ("'--bs'", 8), ["--bs 6 → 3"]),
        (["--batch-size", "8"], ADDS % ("'--accum'", 4), ["--batch-size 8 → 4", "--accum (not given) → 8"]),
        ([], ADDS % ("'--batch-size'", "get()"), []),
        ([], ADDS % ("'--batch-size'", "True"), []),
        ([], "'--batch-size' (", []),
        (["--batch_size", "1"], "", []),
        (["--batch_size", "auto"], "", []),
        (["--epochs", "8"], "", []),
    ],
)  # fmt: skip
def test_a_smaller_batch_sees_as_much(args: list[str], script: str, told: list[str]) -> None:
    assert [change.text for change in smaller_batch(args, script)] == told


NAMES = ("a", "b", "c")


def of_gpus(count: int = 2) -> Job:
    shares = tuple(
        NodeShare(node=node, node_rank=rank, first_rank=count * rank, nproc=count, gpus=gpus(node, count))
        for rank, node in enumerate(NAMES)
    )
    return job(placement=Placement(shares=shares))


def gpus(node: str, count: int) -> tuple[str, ...]:
    return tuple(f"GPU-{node}-{index}" for index in range(count))


def offer(node: str, count: int = 2, **fields: Any) -> Capacity:
    return Capacity(node, tuple(Slot(key, "RTX") for key in gpus(node, count)), **fields)


def test_a_node_that_is_silent_or_lost_a_gpu_is_left_out() -> None:
    fine = {node: offer(node) for node in NAMES}
    spec = JobSpec(script="t.py")
    assert left_out(of_gpus(), spec, fine) == {}
    assert left_out(of_gpus(), spec, fine | {"b": offer("b", left_out=("GPU 5 is too hot",))}) == {}
    short = fine | {"b": offer("b", 1, left_out=("RTX (GPU-b-1) has disappeared",))}
    assert left_out(of_gpus(), spec, short) == {"b": "RTX (GPU-b-1) has disappeared"}
    assert left_out(of_gpus(), spec, fine | {"c": offer("c", 1)}) == {"c": "it has too few GPUs"}
    silent = fine | {"a": offer("a", 0, error=Unreachable("a", "does not answer"))}
    assert left_out(of_gpus(), spec, silent) == {"a": "does not answer"}
    del fine["c"]
    assert left_out(of_gpus(), JobSpec(script="t.py", nodes=NAMES), fine) == {
        "c": "it is not in the inventory any more"
    }


def test_a_job_of_so_many_nodes_takes_another_one_by_itself() -> None:
    silent = {node: offer(node) for node in NAMES} | {"c": offer("c", 0, error=Unreachable("c", "does not answer"))}
    assert left_out(of_gpus(), JobSpec(script="t.py", nodes=3), silent) == {"c": "does not answer"}
    assert left_out(of_gpus(), JobSpec(script="t.py", nodes=3), silent | {"d": offer("d")}) == {}
    assert left_out(of_gpus(), JobSpec(script="t.py", nodes=NAMES), silent | {"d": offer("d")}) == {
        "c": "does not answer"
    }
