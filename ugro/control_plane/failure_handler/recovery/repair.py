"""Changes of a new attempt: the smaller batch after a CUDA OOM, a node less. Pure.

Scripts call the same thing by many names.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence

from ugro.common.job_spec import JobSpec
from ugro.common.models.argument_change import ArgumentChange
from ugro.common.models.job import Job, NodeShare
from ugro.control_plane.resource_manager.governor import Capacity
from ugro.control_plane.scheduler.arguments import find, options_of, plain

BATCH = (
    "per_device_train_batch_size",
    "micro_batch_size",
    "micro_batch_size_per_gpu",
    "train_micro_batch_size_per_gpu",
    "train_batch_size",
    "batch_size",
    "batch",
    "bs",
    "b",
)
"""Names of the batch of one GPU, the surest first. Some scripts mean that of all GPUs by the later ones."""

ACCUMULATION = (
    "gradient_accumulation_steps",
    "gradient_accumulation",
    "grad_accumulation_steps",
    "accumulation_steps",
    "accumulate_grad_batches",
    "grad_accum",
    "accum",
)


def smaller_batch(args: Sequence[str], script: str) -> tuple[ArgumentChange, ...]:
    """Half the batch of each GPU, with twice the gradient accumulation where the script has one, so that a step of the
    optimizer sees as much as before. Nothing where no batch size is given that can be halved.
    """
    known = {plain(option): option for option in options_of(script)}
    defaults = defaults_of(script)
    batch = next((hit for name in BATCH if (hit := _number(args, name, known, defaults))), None)
    if batch is None or batch[2] < 2:
        return ()
    name, given, before = batch
    after = before // 2
    halved = ArgumentChange(name=name, before=given, after=str(after))
    for wanted in ACCUMULATION:
        if hit := _number(args, wanted, known, defaults | {wanted: defaults.get(wanted, 1)}):
            kept = _rounded(hit[2] * before, after)
            return halved, ArgumentChange(name=hit[0], before=hit[1], after=str(kept))
    return (halved,)


def defaults_of(script: str) -> dict[str, int]:
    """Return the integer defaults of a Python script's options, by plain name (argparse)."""
    try:
        calls = [node for node in ast.walk(ast.parse(script)) if isinstance(node, ast.Call)]
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # whatever people launch
        return {}
    found: dict[str, int] = {}
    for call in calls:
        default = next((word.value for word in call.keywords if word.arg == "default"), None)
        if isinstance(default, ast.Constant) and type(default.value) is int:
            names = [word.value for word in call.args if isinstance(word, ast.Constant)]
            found |= {plain(name): default.value for name in names if isinstance(name, str) and name.startswith("-")}
    return found


def _number(
    args: Sequence[str], name: str, known: Mapping[str, str], defaults: Mapping[str, int]
) -> tuple[str, str | None, int] | None:
    """Return an argument's spelling, the given text, and the integer that counts: the default where none was given."""
    if given := find(args, name):
        return (given[1], given[2], int(given[2])) if given[2].isdecimal() else None
    return (known[name], None, defaults[name]) if name in known and name in defaults else None


def left_out(job: Job, spec: JobSpec, capacities: Mapping[str, Capacity]) -> dict[str, str]:
    """Return the nodes of a job that can no longer do their part, and why: unreachable, or short of GPUs.

    It is empty where other nodes can take their place, since the job asks for a number of nodes or of GPUs.
    """
    if spec.gpus_in_all is not None or spec.share is not None:
        return {}
    shares = job.placement.shares if job.placement else ()
    found = {share.node: why for share in shares if (why := _unable(share, capacities.get(share.node)))}
    able = sum(not capacity.error for name, capacity in capacities.items() if name not in found)
    return {} if isinstance(spec.nodes, int) and able >= spec.nodes else found


def _unable(share: NodeShare, capacity: Capacity | None) -> str:
    if capacity is None:
        return "it is not in the inventory any more"
    if capacity.error:
        return capacity.error.problem
    short = len(capacity.gpus) < len(share.gpus)
    return "; ".join(capacity.left_out) or "it has too few GPUs" if short else ""


def _rounded(total: int, parts: int) -> int:
    """Return the number of backward passes that cover at least as many samples as before."""
    return -(-total // parts)
