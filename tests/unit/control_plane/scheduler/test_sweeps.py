"""Sweeps: which jobs they make, and how many of them may start."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ugro.common.errors import InputError, JobSpecError
from ugro.common.job_spec import JobSpec, job_spec
from ugro.common.models.job import Job, SweepPart
from ugro.common.models.job_state import JobState
from ugro.control_plane.scheduler.arguments import with_places
from ugro.control_plane.scheduler.backfill import WaitingJob
from ugro.control_plane.scheduler.pending_reasons import OnHold, SweepFull
from ugro.control_plane.scheduler.sweeps import best_of, combinations, limited, sweep_id
from ugro.testing import builders


def swept(args: tuple[str, ...] = (), **values: object) -> JobSpec:
    return job_spec(script="t.py", args=args, sweep=values)


def test_makes_a_job_for_each_combination() -> None:
    found = list(combinations(swept(lr="1e-3,1e-4", seed="1..3")))
    assert [dict(one.values) for one in found] == [
        {"lr": lr, "seed": seed} for lr in ("1e-3", "1e-4") for seed in ("1", "2", "3")
    ]
    assert found[3].spec.args == ("--lr", "1e-4", "--seed", "1")
    assert not found[0].spec.sweep


def test_puts_a_value_where_the_arguments_name_it() -> None:
    spec = swept(("--out", "runs/{lr}-{seed}", "--seed={seed}", "lr={lr}"), lr=["0.1"], seed=[7])
    assert next(combinations(spec)).spec.args == ("--out", "runs/0.1-7", "--seed=7", "lr=0.1")
    spec = swept(("--out", "runs/{lr}"), lr=["0.1"])
    assert next(combinations(spec)).spec.args == ("--out", "runs/0.1", "--lr", "0.1"), "a folder's name is not enough"
    assert next(combinations(swept(("--seed={seed}0",), seed=[7]))).spec.args == ("--seed=70",)


@pytest.mark.parametrize(
    ("args", "both", "instead"),
    [
        (("--lr", "3"), "`--lr 3` among the arguments and the sweep of lr=1e-3,1e-4 both give lr", "--lr {lr}"),
        (("--out", "out/{lr}", "--lr=3"), "`--lr=3`", "--lr={lr}"),
        (("lr=3",), "`lr=3`", "lr={lr}"),
    ],
)
def test_refuses_an_argument_that_is_swept_and_given(args: tuple[str, ...], both: str, instead: str) -> None:
    with pytest.raises(InputError) as caught:
        next(combinations(swept(args, lr="1e-3,1e-4")))
    assert both in caught.value.message and caught.value.hint.endswith(f"say where the values go: {instead}")


def test_refuses_an_argument_that_the_script_has_not() -> None:
    with pytest.raises(InputError, match="no argument 'rate'") as caught:
        next(combinations(swept(rate=[1]), ("--lr", "--seed")))
    assert "-- rate={rate}" in caught.value.hint


def test_adds_nothing_to_a_command_as_it_was_typed() -> None:
    def of(*words: str) -> JobSpec:
        return JobSpec.model_validate({"command": list(words), "workdir": "/w", "sweep": {"lr": [1, 2]}})

    assert next(combinations(of("bash", "-c", "t --lr {lr} >{lr}"))).spec.command[-1] == "t --lr 1 >1"
    assert next(combinations(of("bash", "t.sh", "--lr", "{lr}"))).spec.command == ("bash", "t.sh", "--lr", "1")
    with pytest.raises(InputError, match="the command has no place for lr") as caught:
        next(combinations(of("bash", "-c", "echo no")))
    assert caught.value.hint == "say where its value goes: {lr}"


@pytest.mark.parametrize(
    ("args", "common"),
    [
        (("--epochs", "1"), ("--epochs", "1", "--lr", "{lr}", "--seed", "{seed}")),
        (("--out", "o-{lr}", "--seed={seed}"), ("--out", "o-{lr}", "--seed={seed}", "--lr", "{lr}")),
        (("{seed}{lr}", "{lr}", "{seed}"), ("{seed}{lr}", "{lr}", "{seed}")),
    ],
)
def test_shows_the_command_that_its_jobs_have_in_common(args: tuple[str, ...], common: tuple[str, ...]) -> None:
    jobs = list(combinations(swept(args, lr=[1, 2], seed=[1, 2])))
    assert with_places([(one.spec.args, one.values) for one in jobs]) == common


def test_shows_no_word_of_jobs_that_differ_otherwise() -> None:
    assert with_places([(("--a", "x"), {"lr": "1"}), (("--a", "y"), {"lr": "2"})]) == ("--a", "…")


def test_shows_the_places_also_of_one_job_alone() -> None:
    assert with_places([(("--epochs", "1", "--lr", "1"), {"lr": "1"})]) == ("--epochs", "1", "--lr", "{lr}")
    edited = (("--lr", "3", "--more"), {"lr": "2"})
    assert with_places([(("--lr", "1"), {"lr": "1"}), edited]) == ("--lr", "{lr}")


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ("1..1000000", "1,000,000 values"),
        ("5..1", "a range counts up"),
        ("1,1", "1 is given twice"),
        ("1,,2", "values such as"),
        ("", "values such as"),
        ({"a": 1}, "texts or numbers"),
        ([True], "texts or numbers"),
        (["x" * 3] * 2000, "more than 1000 values"),
    ],
)
def test_refuses_values_that_make_no_sense(values: object, problem: str) -> None:
    with pytest.raises(JobSpecError, match=problem):
        swept(lr=values)


def test_refuses_a_sweep_of_a_million() -> None:
    with pytest.raises(JobSpecError, match="make 1,000,000 jobs; at most 1000"):
        swept(a="1..100", b="1..100", c="1..100")
    with pytest.raises(JobSpecError, match="a sweep is needed with it"):
        job_spec(script="t.py", max_parallel=2)
    with pytest.raises(JobSpecError, match="no name of an argument"):
        swept(**{"l r": [1]})


@given(st.integers(-50, 50), st.integers(0, 200), st.integers(1, 9))
def test_counts_as_python_does(first: int, more: int, step: int) -> None:
    spec = swept(n=f"{first}..{first + more}..{step}")
    assert spec.sweep["n"] == tuple(str(number) for number in range(first, first + more + 1, step))


# --- how many run at a time ------------------------------------------------------------------------------------------


def part(index: int, limit: int | None = 2) -> SweepPart:
    return SweepPart(sweep="sweep-001", name="t", index=index, of=4, values={}, max_parallel=limit)


def job(number: int, state: JobState, limit: int | None = 2) -> Job:
    return builders.job(id=f"job-00{number}", state=state, sweep=part(number, limit))


def waiting(number: int, **fields: object) -> WaitingJob:
    return WaitingJob(f"job-00{number}", JobSpec(script="t.py"), order=number, **fields)  # type: ignore[arg-type]


def test_lets_as_many_start_as_run_at_a_time() -> None:
    jobs = [job(1, JobState.RUNNING), *(job(number, JobState.QUEUED) for number in (2, 3, 4))]
    found = limited([waiting(4), waiting(2), waiting(3)], jobs)
    assert [one.id for one in found] == ["job-004", "job-002", "job-003"]
    full = (SweepFull("sweep-001", 1, 2),)
    assert {one.id: one.blockers for one in found} == {"job-002": (), "job-003": full, "job-004": full}


def test_passes_over_jobs_that_something_else_blocks() -> None:
    jobs = [job(number, JobState.HELD if number == 1 else JobState.QUEUED, 1) for number in (1, 2, 3)]
    found = limited([waiting(1, blockers=(OnHold(),)), waiting(2), waiting(3, priority=5)], jobs)
    assert [bool(one.blockers) for one in found] == [True, True, False], "a higher priority goes first"


def test_leaves_jobs_without_a_limit_alone() -> None:
    jobs = [job(number, JobState.QUEUED, None) for number in (1, 2, 3)]
    queue = [waiting(number) for number in (1, 2, 3)]
    assert limited(queue, jobs) == tuple(queue)


def test_names_a_sweep_after_its_first_job() -> None:
    assert sweep_id("job-012") == "sweep-012"


# --- the best --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("highest", "best"), [(False, "low"), (True, "high")])
@pytest.mark.parametrize("end", [JobState.FAILED, JobState.CANCELLED])
def test_counts_a_job_that_did_not_come_to_its_end_only_where_no_other_has_a_value(
    end: JobState, highest: bool, best: str
) -> None:
    ended = {"lowest": (end, 0.1), "highest": (end, 0.9)}
    for state in (JobState.SUCCEEDED, JobState.RUNNING, JobState.UNKNOWN):
        assert best_of({**ended, "low": (state, 0.4), "high": (state, 0.5)}, highest) == best
    assert best_of(ended, highest) == f"{best}est"
    assert best_of({}, highest) is None
