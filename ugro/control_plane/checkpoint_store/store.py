"""A job's checkpoints: found on whichever node has them, and brought to the master."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ugro.common.config import Inventory
from ugro.common.errors import NodeError
from ugro.common.job_spec import JobSpec
from ugro.common.models import Checkpoint, FoundCheckpoint, Job, NodeView
from ugro.common.paths import CODE, RunPaths
from ugro.control_plane.checkpoint_store.gathering import gather
from ugro.control_plane.metadata_store import MetadataStore
from ugro.control_plane.metadata_store.records import state_errors
from ugro.nodes import checkpoints
from ugro.nodes.pool import Pool
from ugro.nodes.transport import Transport

OUTPUT_OPTION = re.compile(
    r"^--?(?:\w+[-_.])*(?:output|out|save|checkpoints?|ckpt|default_root|work|exp|log|logging|run|project|model)"
    r"[-_]?(?:dir|directory|path|root|folder)?$",
    re.IGNORECASE,
)
"""Arguments whose value may be the directory that a script saves to."""

Progress = Callable[[str, int, int], None]
"""Called with the node, and the bytes received so far and in all."""


@dataclass(frozen=True)
class Listing:
    """The checkpoints of a job by step, and the nodes that could not be asked."""

    checkpoints: list[Checkpoint]
    silent: dict[str, NodeError]


class CheckpointStore:
    """Finds, brings and keeps the checkpoints of jobs."""

    def __init__(self, store: MetadataStore, inventory: Inventory, pool: Pool) -> None:
        self._store = store
        self._inventory = inventory
        self._pool = pool

    async def find(
        self, job: Job, spec: JobSpec, views: Mapping[str, NodeView | NodeError], within: float | None = None
    ) -> Listing:
        """Ask every node that can be reached, for `within` seconds. What is there is checked, and nothing is changed.

        Copies on the master stand in for what no node has, or says.
        `views` are the nodes' own words of just before, for their clocks.
        """
        offsets = {name: view.clock_offset for name, view in views.items() if isinstance(view, NodeView)}

        async def one(transport: Transport) -> list[FoundCheckpoint]:
            since = job.submitted_at + offsets.get(transport.name, 0.0)
            paths = RunPaths(transport.node.base_dir, job.id, job.attempt, 0)
            places = roots(spec, f"{paths.job_dir}/{CODE}")
            return await checkpoints.find(transport, paths.job_dir, places, spec.checkpoints.pattern, since)

        said = await self._pool.each(self._inventory.nodes, one, within)
        found = {name: answer for name, answer in said.items() if not isinstance(answer, NodeError)}
        silent = {name: answer for name, answer in said.items() if isinstance(answer, NodeError)}
        return Listing(with_copies(job, gather(found, offsets), self.kept(job)), silent)

    def kept(self, job: Job) -> dict[int, Path]:
        """The checkpoints that are whole on the master, by step."""
        return copies(self._store.files(job.id).checkpoints)

    async def bring(self, job: Job, checkpoint: Checkpoint, progress: Progress | None = None) -> Path:
        """Bring a whole checkpoint to the master, with every file's checksum compared; of one that is split, all parts.

        Returns the folder that holds it, under its own name. One that is here already is left as it is; others that the
        job's rules do not keep are removed.

        Raises:
            StateError: it cannot be written here. NodeError: no node that has it gave it whole.
        """
        assert checkpoint.step is not None and checkpoint.problem is None
        target = self._store.files(job.id).checkpoints / str(checkpoint.step)
        if target.exists():
            return target
        name = PurePosixPath(checkpoint.name).name
        partial = target.with_name(f".{target.name}.parts")
        with state_errors(target):
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            try:
                if checkpoint.split:
                    await self._bring_parts(checkpoint, partial, name, progress)
                else:
                    await self._bring_copy(checkpoint, partial / name, progress)
                partial.rename(target)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        self._prune(job, checkpoint.step)
        return target

    async def _bring_copy(self, checkpoint: Checkpoint, target: Path, progress: Progress | None) -> None:
        """From the first node that gives it."""
        problem: NodeError | None = None
        for place in checkpoint.places:
            try:
                return await self._fetch(place.node, place.path, checkpoint.bytes, target, progress)
            except NodeError as error:
                problem = error
        assert problem
        raise problem

    async def _bring_parts(self, checkpoint: Checkpoint, target: Path, name: str, progress: Progress | None) -> None:
        """From all nodes into one folder; where several have a file, that of the first counts."""
        for place in reversed(checkpoint.places):
            part = target / f".part-{place.node}"
            await self._fetch(place.node, place.path, checkpoint.bytes, part, progress)
            shutil.copytree(part, target / name, dirs_exist_ok=True)
            shutil.rmtree(part)

    async def _fetch(self, node: str, path: str, size: int, target: Path, progress: Progress | None) -> None:
        def tell(done: int, total: int) -> None:
            if progress:
                progress(node, done, total)

        await checkpoints.fetch(self._pool[node], path, size, target, tell)

    def _prune(self, job: Job, needed: int) -> None:
        kept = self.kept(job)
        for step in outdated(list(kept), self._store.spec(job.id)):
            if step != needed:
                with state_errors(kept[step]):
                    shutil.rmtree(kept[step])


def copies(folder: Path) -> dict[int, Path]:
    """The checkpoints in a job's folder for them on this machine, by step; each got its name when it was whole.

    Raises:
        StateError: the folder cannot be read.
    """
    with state_errors(folder):
        names = [path for path in folder.iterdir() if path.name.isdecimal()] if folder.is_dir() else []
    return {int(path.name): path for path in sorted(names, key=lambda path: int(path.name))}


def with_copies(job: Job, found: Sequence[Checkpoint], kept: Mapping[int, Path]) -> list[Checkpoint]:
    """What the nodes have, by step, and this machine's copies of what is whole on none of them."""
    whole = {one.step for one in found if one.problem is None}
    only_here = [_copy(job, step, folder) for step, folder in kept.items() if step not in whole]
    return sorted([*found, *only_here], key=lambda one: -1 if one.step is None else one.step)


def _copy(job: Job, step: int, folder: Path) -> Checkpoint:
    """When it was saved is known if the job went on from it; else it was before its copy was made."""
    if job.resume_from and job.resume_from.step == step:
        return job.resume_from.model_copy(update={"places": ()})
    with state_errors(folder):
        return Checkpoint(
            step=step,
            kind="copy",
            name=next((path.name for path in folder.iterdir()), str(step)),
            bytes=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
            saved_at=folder.stat().st_mtime,
            places=(),
        )


def outdated(steps: Sequence[int], spec: JobSpec) -> list[int]:
    """The steps, in their order, that a job's rules do not keep."""
    rules = spec.checkpoints
    last = sorted(steps)[-rules.keep_last :]
    return [step for step in steps if step not in last and not (rules.keep_every and step % rules.keep_every == 0)]


def roots(spec: JobSpec, code: str) -> list[str]:
    """Where on a node a job's checkpoints may be: in the directory it names, else in its code or where it saves to."""
    if spec.checkpoints.dir:
        return [_under(code, spec.checkpoints.dir)]
    named = []
    for index, word in enumerate(spec.args):
        option, equals, value = word.partition("=")
        if OUTPUT_OPTION.match(option):
            named.append(value if equals else spec.args[index + 1] if index + 1 < len(spec.args) else "")
    return [code, *(_under(code, value) for value in named if value and not value.startswith("-"))]


def _under(code: str, path: str) -> str:
    return path if path.startswith(("/", "~/")) else f"{code}/{path}"
