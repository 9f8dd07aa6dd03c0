"""Checks UGRO on the GPUs of this machine: its probe, jobs over NCCL, an OOM, a cancel, its estimates.

Each check is a function that measures; what that means is judged in `ugro.control_plane.preflight.gpu_verdicts`.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass

from ugro.common.errors import InputError, UgroError
from ugro.common.models.gpu import Gpu
from ugro.common.models.job_state import JobState
from ugro.common.text import printable, some
from ugro.control_plane.preflight.gpu_verdicts import (
    FREE_WITHIN,
    LEFT_MIB,
    GpuVerdict,
    Sized,
    failed,
    judge_all_reduce,
    judge_cancel,
    judge_estimates,
    judge_load,
    judge_oom,
    judge_probe,
    judge_ras,
    judge_speeds,
    judge_torch,
    skipped,
)
from ugro.control_plane.resource_manager.predictor.memory_model import from_model
from ugro.control_plane.resource_manager.predictor.workload import read_workload
from ugro.nodes.remote.checkup.checkup import PythonFacts, ask_python
from ugro.nodes.remote.checkup.machine import MachineReport, ask_machine
from ugro.nodes.remote.gpus import outputs
from ugro.nodes.remote.speed import speed
from ugro.service import resume, stacks
from ugro.service.context import Context
from ugro.service.gpu_bench import Bench, bench
from ugro.service.schemas.gpu_check import GpuCheck, GpuCheckBegins, GpuCheckDocument, GpuChecked, GpuCheckLine
from ugro.service.schemas.resume import PlanResume, Resume, ResumeOptions
from ugro.service.schemas.stacks import Stacks

IN_ALL = 230.0
"""Seconds for all checks; those that would begin later are skipped."""

JOB_WITHIN = 75.0
"""Seconds for one job: torch and CUDA start in 5 to 20."""

LOOKS, LOOK_SECONDS = 5, 1.0
"""Observations of GPUs at work: utilization is that of the last second."""

SIZED = (("distilgpt2", 4, 512), ("gpt2", 4, 512), ("gpt2-medium", 2, 512))
"""Models whose memory is estimated and measured: name, batch, tokens."""

ELSEWHERE = "run it on a machine with an NVIDIA GPU; to try UGRO without one: make demo"


@dataclass
class Trial:
    """What the checks know of the machine, and the job that several of them look at."""

    bench: Bench
    gpus: tuple[Gpu, ...]
    python: PythonFacts
    machine: MachineReport
    holding: str | None = None
    log_of: str | None = None

    @property
    def simulated(self) -> bool:
        """Whether the GPUs are simulated."""
        return self.machine.simulated


Act = Callable[[Trial], Awaitable[GpuVerdict]]


async def check(context: Context, request: GpuCheck) -> AsyncIterator[GpuCheckBegins | GpuCheckLine | GpuChecked]:
    """Make every check; yield each as it begins and ends. Nothing remains of them.

    Raises:
        InputError: this machine has no GPU, its GPUs cannot be asked, or something computes on one.
        NodeRefused: the interpreter cannot be run.
    """
    began = time.monotonic()
    python = request.python or _python(context)
    async with bench(python) as made:
        gpus = await _idle_gpus(made)
        transport = await made.transport()
        machine = await ask_machine(transport, with_gpus=True)
        made.simulated = machine.simulated
        trial = Trial(made, gpus, await ask_python(transport, with_cuda=True), machine)
        lines = []
        for name, title, act in CHECKS:
            yield GpuCheckBegins(name=name, title=title)
            lines.append(await _made(name, act, trial, IN_ALL - (time.monotonic() - began)))
            yield lines[-1]
        captured = await outputs.capture(transport) if request.capture else {}
    yield GpuChecked(
        answer=GpuCheckDocument(
            python=trial.python.executable,
            gpus=tuple(gpu.name for gpu in gpus),
            checks=tuple(lines),
            seconds=time.monotonic() - began,
        ),
        captured=captured,
    )


def _python(context: Context) -> str:
    """Return an interpreter that probably has torch."""
    if importlib.util.find_spec("torch"):
        return sys.executable
    inventory = context.inventory_if_any()
    local = [node.python for node in inventory.nodes.values() if node.local] if inventory else []
    return next(iter(local), "python3")


async def _idle_gpus(made: Bench) -> tuple[Gpu, ...]:
    view = await made.look()
    if view.gpu_problem:
        raise InputError(f"the GPUs of this machine cannot be asked: {view.gpu_problem}", "look at: nvidia-smi")
    if not view.gpus:
        raise InputError("no NVIDIA GPU is on this machine: nvidia-smi is not installed, or shows none", ELSEWHERE)
    if any(gpu.mig for gpu in view.gpus):
        raise InputError("a GPU of this machine is split (MIG)", "sudo nvidia-smi -mig 0")
    busy = [f"pid {process.pid} ({printable(process.name)})" for gpu in view.gpus for process in gpu.processes]
    if busy:
        raise InputError(f"a GPU of this machine is in use: {some(busy)}", "wait for its end, and repeat")
    return view.gpus


async def _made(name: str, act: Act, trial: Trial, left: float) -> GpuCheckLine:
    began = time.monotonic()
    trial.log_of = None
    try:
        async with asyncio.timeout(max(0.0, left)):
            found = await act(trial) if left > 0 else skipped(f"{IN_ALL:.0f} s are over")
    except TimeoutError:
        found = failed("it did not end in time", "repeat it on an idle machine")
    except UgroError as error:
        found = failed(error.message, error.hint)
    if trial.log_of and trial.log_of != trial.holding:
        await trial.bench.end(trial.log_of)
    log = trial.bench.last_lines(trial.log_of) if found.state == "failed" and trial.log_of else ()
    return GpuCheckLine(
        name=name,
        state=found.state,
        text=printable(found.text),
        hint=printable(found.hint),
        seconds=time.monotonic() - began,
        figures=found.figures,
        log=tuple(map(printable, log)),
    )


# --- the checks ------------------------------------------------------------------------------------------------------


async def _probe(trial: Trial) -> GpuVerdict:
    transport = await trial.bench.transport()
    return judge_probe(await trial.bench.look(), await outputs.look_one_by_one(transport))


async def _torch(trial: Trial) -> GpuVerdict:
    return judge_torch(trial.gpus, trial.python, trial.machine)


async def _measure(trial: Trial) -> GpuVerdict:
    if trial.simulated:
        return skipped("the GPU is simulated: there is no speed to measure")
    found = await speed.measure(await trial.bench.transport(), [gpu.uuid for gpu in trial.gpus])
    return judge_speeds(trial.gpus, found)


async def _all_reduce(trial: Trial) -> GpuVerdict:
    job = trial.log_of = await trial.bench.start("all_reduce")
    await trial.bench.ended(job, JOB_WITHIN)
    result = next((one for one in trial.bench.results(job) if "gbit_per_s" in one), None)
    return judge_all_reduce(result, len(trial.gpus), trial.simulated, trial.bench.why(job))


async def _load(trial: Trial) -> GpuVerdict:
    job = trial.log_of = await trial.bench.start("hold", "--mib", "64" if trial.simulated else "1024")
    trial.holding = job
    await trial.bench.said(job, "holding", len(trial.gpus), JOB_WITHIN)
    gpus: tuple[Gpu, ...] = ()
    for _ in range(LOOKS):
        await asyncio.sleep(LOOK_SECONDS)
        seen = (await trial.bench.look()).gpus
        gpus = seen if not gpus or _load_of(seen) > _load_of(gpus) else gpus
    return judge_load(gpus, trial.simulated)


def _load_of(gpus: Sequence[Gpu]) -> int:
    return min((gpu.utilization_percent or 0 for gpu in gpus), default=0)


async def _ras(trial: Trial) -> GpuVerdict:
    report = ""
    if trial.holding and len(trial.gpus) > 1 and not trial.simulated:
        ranks = trial.bench.context.store.jobs.job(trial.holding).ranks
        # RAS listens in the rank that was first on this machine; if that is the stopped one, there is no answer.
        for pid in [rank.pid for rank in (ranks[-1], ranks[0]) if rank.pid]:
            with _stopped(pid):
                answer = await stacks.stacks(trial.bench.context, Stacks(job=trial.holding))
            if report := answer.answer.nccl or "":
                break
    return judge_ras(report, trial.python.nccl, len(trial.gpus), trial.simulated)


@contextlib.contextmanager
def _stopped(pid: int) -> Iterator[None]:
    """Stop a process for a moment."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


async def _cancel(trial: Trial) -> GpuVerdict:
    if trial.holding is None:
        return skipped("no job runs that could be cancelled")
    before = time.monotonic()
    ended = await trial.bench.cancel(trial.holding, JOB_WITHIN)
    free, left = await trial.bench.free(trial.gpus, 3 * FREE_WITHIN, LEFT_MIB)
    return judge_cancel(ended, None if free is None else time.monotonic() - before, left)


async def _oom(trial: Trial) -> GpuVerdict:
    if trial.simulated:
        return skipped("the GPU is simulated: it does not run out of memory")
    context = trial.bench.context
    job = trial.log_of = await trial.bench.start("fill", "--batch-size", "8", gpus=1)
    first = (await trial.bench.ended(job, JOB_WITHIN)).first_failure
    cause = first.cause if first else None
    if cause != "cuda_oom":
        return judge_oom(cause, (), False, trial.bench.why(job))
    plan = await resume.plan_resume(context, PlanResume(options=ResumeOptions(job=job)))
    answers = {question.id: True for question in plan.questions}
    await resume.resume(context, Resume(plan=plan, answers=answers))
    again = await trial.bench.ended(job, JOB_WITHIN)
    return judge_oom(cause, plan.smaller_batch, again.state == JobState.SUCCEEDED, trial.bench.why(job))


async def _estimate(trial: Trial) -> GpuVerdict:
    if trial.simulated:
        return skipped("the GPU is simulated: a training takes no memory of it")
    free = min(gpu.memory_free_mib or 0 for gpu in trial.gpus)
    fitting, too_large = [], []
    for name, batch, length in SIZED:
        words = ("--model", name, "--batch-size", str(batch), "--seq-len", str(length), "--bf16")
        workload = read_workload(words, 1)
        assert workload
        estimate = from_model(workload)
        if estimate.high_mib <= free:
            fitting.append((f"{name}:{batch}:{length}", estimate))
        else:
            too_large.append(name)
    if not fitting:
        return skipped(f"{free} MiB are free, too few for {some(too_large)}")
    models = ",".join(words for words, _ in fitting)
    before = ",".join(f"{gpu.uuid}={gpu.memory_free_mib or 0}" for gpu in trial.gpus)
    job = trial.log_of = await trial.bench.start("models", "--models", models, "--free-mib", before, gpus=1)
    await trial.bench.ended(job, JOB_WITHIN)
    results = [one for one in trial.bench.results(job) if "model" in one]
    took = {one["model"]: one["used_mib"] for one in results}
    sized = [
        Sized(name=name, mib=one.mib, low_mib=one.low_mib, high_mib=one.high_mib, used_mib=took[name])
        for words, one in fitting
        if (name := words.partition(":")[0]) in took
    ]
    return judge_estimates(sized, too_large, trial.bench.why(job))


CHECKS: tuple[tuple[str, str, Act], ...] = (
    ("probe", "ask nvidia-smi for every field", _probe),
    ("torch", "find the GPUs with torch", _torch),
    ("measure", "measure the speed of each GPU", _measure),
    ("all-reduce", "run a job on every GPU", _all_reduce),
    ("load", "observe GPUs at work", _load),
    ("ras", "ask NCCL about a stopped rank", _ras),
    ("cancel", "cancel the job, and wait for its memory", _cancel),
    ("oom", "run out of memory, and resume with half the batch", _oom),
    ("estimate", "compare estimates with trainings", _estimate),
)
"""Name, what is done, and how, in this order: `load`, `ras` and `cancel` are about one job."""
