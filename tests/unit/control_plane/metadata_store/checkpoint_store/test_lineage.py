"""Which attempt saved a checkpoint, and which ones the latest attempt goes back to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from ugro.common.errors import InputError
from ugro.common.models.checkpoint import Checkpoint, FoundCheckpoint
from ugro.common.models.job import Attempt, Job
from ugro.common.models.job_state import JobState
from ugro.control_plane.metadata_store.checkpoint_store import copies, newest_since, newest_whole, with_copies
from ugro.control_plane.metadata_store.checkpoint_store.gathering import gather
from ugro.control_plane.metadata_store.checkpoint_store.lineage import Position, lineage, runs_of, writer
from ugro.testing.builders import CODE, placement

Began = tuple[int, int] | None
"""The step that an attempt resumed from, and the attempt that had saved it; None: from the beginning."""


def job(*began: Began, nodes: tuple[str, ...] = ("a", "b"), elsewhere: tuple[str, ...] = (), **fields: Any) -> Job:
    """A job whose attempt n was launched at 1000·n and ended 500 s later; the last one is placed on `elsewhere`."""
    past = [
        Attempt(
            attempt=number,
            state=JobState.FAILED,
            launched_at=1000.0 * number,
            started_at=1000.0 * number + 100,
            ended_at=1000.0 * number + 500,
            placement=placement(*nodes),
            code=CODE,
            reason="",
            step=start and start[0],
            source=start and start[1],
        )
        for number, start in enumerate(began[:-1], start=1)
    ]
    last, start = len(began), began[-1]
    told: dict[str, Any] = {"id": "job-001", "uid": "u", "name": "n", "command": ("t.py",), "code": CODE}
    told |= {
        "submitted_at": 500.0,
        "launched_at": 1000.0 * last,
        "placement": placement(*(elsewhere or nodes)),
    }
    if start:
        told["resume_from"] = saved(start[0], start[1])
    return Job.model_validate(told | {"state": "failed", "attempt": last, "past": tuple(past)} | fields)


def saved(step: int, attempt: int | None = None) -> Checkpoint:
    return Checkpoint(step=step, kind="torch", name=f"c-{step}.pt", bytes=1, saved_at=0.0, places=(), attempt=attempt)


def sighting(step: int, at: float, name: str = "", **fields: Any) -> FoundCheckpoint:
    name = name or f"c-{step}.pt"
    told = {"path": f"/code/{name}", "kind": "torch", "bytes": 5, "files": 1} | fields
    return FoundCheckpoint(name=name, step=step, saved_at=at, **told)


def listed(of: Job, on_a: list[FoundCheckpoint], on_b: list[FoundCheckpoint] | None = None) -> list[Checkpoint]:
    return gather({"a": on_a, "b": on_b or []}, {}, runs_of(of))


FIRST = [sighting(10, 1110), sighting(20, 1220), sighting(30, 1330)]
SECOND = [sighting(12, 2120), sighting(14, 2140)]


def test_a_copy_stands_in_for_what_is_left_of_the_same_checkpoint() -> None:
    """Of a split one whose other node does not answer there is one row: it is complete here."""
    of = job(None)
    whole = saved(20, 1).model_copy(update={"kind": "ranks", "name": "step-20/rank{rank}.pt"})
    torn = whole.model_copy(update={"problem": "lacks the parts of rank 1 of 2 ranks", "saved_at": 1100.0})
    other = torn.model_copy(update={"name": "best/rank{rank}.pt"})
    assert with_copies(of, [torn], {whole.label: whole}) == [whole]
    assert with_copies(of, [other], {whole.label: whole}) == [whole, other], "of another name it is another one"
    assert with_copies(of, [torn], {}) == [torn]


def test_what_the_latest_attempt_did_not_come_from_does_not_count() -> None:
    seen = listed(job(None, (10, 1)), [*FIRST, *SECOND])
    assert [(one.step, one.attempt, one.other_branch) for one in seen] == [
        (10, 1, False),
        (12, 2, False),
        (14, 2, False),
        (20, 1, True),
        (30, 1, True),
    ]
    assert newest_whole(seen).step == 14
    assert newest_whole(seen, 30).attempt == 1, "it may be chosen"


@pytest.mark.parametrize(
    ("began", "newest"),
    [
        ((None,), 30),
        ((None, (30, 1)), 30),
        ((None, (10, 1), (30, 1)), 30),  # back to the first branch
        ((None, (10, 1), (12, 2)), 12),
        ((None, (10, 1), (10, 1)), 10),  # the second attempt is left out
        ((None, (10, 1), (14, 2), (12, 2)), 12),
    ],
)
def test_each_attempt_goes_back_as_far_as_it_came_from(began: tuple[Began, ...], newest: int) -> None:
    there = [*FIRST, *(SECOND if len(began) > 1 and began[1] == (10, 1) else ())]
    assert newest_whole(listed(job(*began), there)).step == newest


def test_an_attempt_from_the_beginning_has_nothing_before_it() -> None:
    seen = listed(job(None, None), FIRST)
    assert all(one.other_branch for one in seen)
    with pytest.raises(InputError, match="no checkpoint is from the latest attempt") as refusal:
        newest_whole(seen)
    assert "step 10 (attempt 1), step 20 (attempt 1), step 30 (attempt 1); choose one with --from" in refusal.value.hint
    assert newest_whole(listed(job(None, None), [*FIRST, sighting(5, 2050)])).step == 5


def test_one_step_in_two_branches_means_the_latest() -> None:
    there = [sighting(12, 1120, "out/c-12.pt"), sighting(12, 2120, "c-12.pt"), *FIRST]
    assert newest_whole(listed(job(None, (10, 1)), there), 12).attempt == 2
    assert newest_whole(listed(job(None, (10, 1), (20, 1)), there), 12).attempt == 1, (
        "what it came from is before others"
    )


def test_what_was_overwritten_is_of_who_wrote_it_last() -> None:
    again = [sighting(10, 1110), sighting(20, 2200), sighting(30, 1330)]
    assert newest_whole(listed(job(None, (10, 1)), again)).step == 20
    # the first attempt saved on a, the second one on b: two checkpoints of one name, and never one with two copies
    [one, other] = [one for one in listed(job(None, (10, 1)), FIRST, [sighting(20, 2200)]) if one.step == 20]
    assert [(x.attempt, x.other_branch, [place.node for place in x.places]) for x in (one, other)] == [
        (1, True, ["a"]),
        (2, False, ["b"]),
    ]


def test_a_checkpoint_that_was_being_written_over_is_of_neither_attempt() -> None:
    half = sighting(20, 2200, "step-20", kind="folder", begun_at=1220.0, shards=("model.pt", "optimizer.pt"))
    [one] = listed(job(None, (10, 1)), [half])
    assert one.problem == "was being written over: it has files of attempt 1 and of attempt 2"
    base = half.model_copy(update={"begun_at": 1.0})  # a file that was copied into it with its time
    assert listed(job(None, (10, 1)), [base])[0].problem is None


def test_what_was_there_before_the_first_attempt_is_none_of_the_job() -> None:
    assert [one.step for one in listed(job(None), [sighting(5, 900), sighting(6, 1006)])] == [6]
    assert listed(job(None, state="queued", placement=None, launched_at=None), [sighting(5, 900)]) == []


def test_the_nodes_clocks_are_corrected() -> None:
    runs = runs_of(job(None, (10, 1)))
    seen = gather({"a": [sighting(12, 2120 + 3600)], "b": [sighting(30, 1330 - 3600)]}, {"a": 3600, "b": -3600}, runs)
    assert [(one.step, one.attempt, one.saved_at) for one in seen] == [(12, 2, 2120.0), (30, 1, 1330.0)]


def test_on_a_node_that_an_attempt_has_no_part_in_an_earlier_one_wrote() -> None:
    runs = runs_of(job(None, (10, 1), nodes=("a",), elsewhere=("b",)))
    assert [writer(runs, 2120, {node}) for node in ("a", "b", "c")] == [1, 2, 2]
    assert writer(runs, 2120, {"a", "b"}) == 2, "they share a disk"
    seen = gather({"a": [sighting(40, 2120)], "b": [sighting(12, 2120.5)]}, {}, runs)
    assert newest_whole(seen).step == 12


def test_a_shared_disk_has_one_checkpoint_of_the_attempt_that_ran_somewhere_on_it() -> None:
    runs = runs_of(job(None, (10, 1), nodes=("a",), elsewhere=("b",)))
    [one] = gather({"a": [sighting(12, 2120)], "b": [sighting(12, 2120)]}, {}, runs)
    assert (one.attempt, len(one.places)) == (2, 2)


def test_an_attempt_that_never_ran_passes_on_what_it_was_to_go_on_from() -> None:
    record = job(None, (10, 1), (10, 1))
    past = (record.past[0], record.past[1].model_copy(update={"placement": None, "launched_at": None}))
    assert lineage(runs_of(record.model_copy(update={"past": past}))) == {3: None, 1: Position(10, None)}
    assert writer(runs_of(record.model_copy(update={"past": past})), 2120, {"a"}) == 1


def test_records_of_an_earlier_version_go_by_when_attempts_ended() -> None:
    record = job(None, (10, 1), launched_at=None)
    assert record.resume_from
    old = record.model_copy(
        update={
            "past": tuple(past.model_copy(update={"launched_at": None, "source": None}) for past in record.past),
            "resume_from": record.resume_from.model_copy(update={"attempt": None}),
        }
    )
    seen = listed(old, [*FIRST, *SECOND])
    assert newest_whole(seen).step == 14 and [one.step for one in seen if one.other_branch] == [20, 30]


def test_a_step_within_an_epoch_is_not_further_than_one_of_the_next_epoch() -> None:
    there = [sighting(90, 1110, "e1-s90.pt", epoch=1), sighting(10, 1120, "e2-s10.pt", epoch=2)]
    assert newest_whole(listed(job(None), there)).name == "e2-s10.pt"
    assert newest_whole(listed(job(None), [*there, sighting(95, 1100)])).step == 95, "not all tell of epochs"
    assert Position(10, 2).reaches(Position(90, 1)) and not Position(None, 3).reaches(Position(5, None))


def test_epochs_are_an_order_where_there_is_no_other() -> None:
    epochs = [
        sighting(0, 1100.0 + epoch, f"epoch_{epoch}.pth").model_copy(update={"step": None, "epoch": epoch})
        for epoch in (1, 2, 10)
    ]
    last = newest_whole(listed(job(None), epochs))
    assert (last.where, last.position, last.label) == ("epoch 10", 10, "epoch-10-attempt-1")
    assert newest_whole(listed(job(None), epochs), 2).name == "epoch_2.pth"


def test_weights_alone_are_never_preferred() -> None:
    there = [sighting(10, 1110), sighting(20, 1120, weights_only=True)]
    assert newest_whole(listed(job(None), there)).step == 10
    assert newest_whole(listed(job(None), there), 20).step == 20
    assert newest_whole(listed(job(None), there[1:])).step == 20, "where there is nothing else"


def test_what_shows_no_step_is_named() -> None:
    with pytest.raises(InputError, match=r"best\.pt shows no step"):
        newest_whole(listed(job(None), [sighting(0, 1100, "best.pt").model_copy(update={"step": None})]))


def test_another_branch_does_not_answer_a_request_to_save() -> None:
    before = listed(job(None, (10, 1)), FIRST)
    now = listed(job(None, (10, 1)), [*FIRST, sighting(12, 2120)])
    answer = newest_since(2125.0, before, now, saw_all=True)
    assert answer and answer.step == 12, "further than all that its attempt came from"
    other = gather({"a": [*FIRST, sighting(40, 2130)]}, {}, runs_of(job(None, (10, 1), elsewhere=("b",))))
    assert newest_since(2125.0, before, other, saw_all=True) is None, "a given-up attempt goes on there"


# Copies on the master


def kept(folder: Path, label: str, name: str, at: float) -> None:
    (folder / label).mkdir()
    (folder / label / name).write_bytes(b"x" * 10)
    os.utime(folder / label, (at, at))


def test_a_copy_is_of_its_attempt_too(tmp_path: Path) -> None:
    for step, attempt in ((12, 2), (12, 1), (30, 1)):
        one = saved(step, attempt)
        kept(tmp_path, one.label, one.name, 1.0)
        (tmp_path / f"{one.label}.json").write_text(one.model_dump_json())
    found = with_copies(job(None, (10, 1)), listed(job(None, (10, 1)), [sighting(12, 2120)]), copies(tmp_path))
    assert [(one.step, one.attempt, one.other_branch, len(one.places)) for one in found] == [
        (12, 1, True, 0),
        (12, 2, False, 1),
        (30, 1, True, 0),
    ]
    assert newest_whole(found).step == 12


def test_copies_of_an_earlier_version_are_read(tmp_path: Path) -> None:
    kept(tmp_path, "30", "c-30.pt", 1600.0)
    kept(tmp_path, "14", "c-14.pt", 2600.0)
    kept(tmp_path, "16-attempt-2", "c-16.pt", 2700.0)
    (tmp_path / "16-attempt-2.json").write_text("{")
    found = with_copies(job(None, (10, 1)), [], copies(tmp_path))
    assert [(one.step, one.kind, one.other_branch) for one in found] == [(14, "copy", False), (30, "copy", True)]
    assert [one.label for one in found] == ["14", "30"], "under which they lie"
