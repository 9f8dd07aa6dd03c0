"""A job's checkpoints: found on whichever node has them, and brought to the master."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from ugro.common.config import Inventory, NodeConfig
from ugro.common.errors import NodeError
from ugro.common.files import write_atomic
from ugro.common.job_spec import JobSpec
from ugro.common.models.checkpoint import Checkpoint, FoundCheckpoint
from ugro.common.models.job import Job
from ugro.common.models.node import NodeView
from ugro.common.models.place import Place
from ugro.common.paths import CODE, RunPaths
from ugro.control_plane.metadata_store import MetadataStore
from ugro.control_plane.metadata_store.checkpoint_store.gathering import gather, in_order
from ugro.control_plane.metadata_store.checkpoint_store.lineage import lineage, of_other_branch, runs_of, writer
from ugro.control_plane.metadata_store.records import state_errors
from ugro.nodes.pool import Pool
from ugro.nodes.remote.checkpoints import checkpoints
from ugro.nodes.remote.checkpoints.checkpoints import SearchResult
from ugro.nodes.transport import Transport

OUTPUT_OPTION = re.compile(
    r"^--?(?:\w+[-_.])*(?:output|out|save|checkpoints?|ckpt|default_root|work|exp|log|logging|run|project|model)"
    r"[-_]?(?:dir|directory|path|root|folder)?$",
    re.IGNORECASE,
)
"""Arguments whose value may be the directory that a script saves to."""

Progress = Callable[[str, int, int], None]
"""Called with the node, and the bytes received so far and in all."""


UNKNOWN = "its folder (it is not in the inventory any more)"
"""The unsearched place on a node without a known address."""


@dataclass(frozen=True)
class CheckpointListing:
    """The checkpoints of a job by step, the nodes that could not be asked, and what others did not search, and why."""

    checkpoints: list[Checkpoint]
    silent: dict[str, NodeError]
    passed: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def unseen(self, job: Job) -> list[str]:
        """Return in words where checkpoints of a job may be that are not listed."""
        ran_on = {node for run in runs_of(job) for node in run.nodes} | set(map(_as_it_was, _configs(job)))
        silent = [f"{node} did not say what it has" for node in self.silent if node in ran_on]
        return silent + [f"{node}: {place}" for node, places in self.passed.items() for place in places]


class CheckpointStore:
    """Finds, brings and keeps the checkpoints of jobs."""

    def __init__(self, store: MetadataStore, inventory: Inventory, pool: Pool) -> None:
        self._store = store
        self._inventory = inventory
        self._pool = pool

    async def find(
        self,
        job: Job,
        spec: JobSpec,
        views: Mapping[str, NodeView | NodeError],
        within: float | None = None,
        nodes: Mapping[str, NodeConfig] | None = None,
    ) -> CheckpointListing:
        """Ask every node that can be reached, for `within` seconds. What is there is checked, and nothing is changed.

        Copies on the master stand in for what no node has, or says. `views` are the nodes' own words of just before,
        for their clocks. `nodes` are those to ask: where nothing is said all of the inventory, and where the job ran.
        """
        offsets = {name: view.clock_offset for name, view in views.items() if isinstance(view, NodeView)}

        runs = runs_of(job)

        async def one(transport: Transport) -> SearchResult:
            since = job.submitted_at + offsets.get(transport.name, 0.0)
            folders = _job_dirs(job, transport.node)
            places = dict.fromkeys(place for folder in folders for place in roots(spec, f"{folder}/{CODE}"))
            return await checkpoints.find(transport, folders[-1], [*places], spec.checkpoints.pattern, since)

        nodes = self._nodes(job) if nodes is None else nodes
        said = await self._pool.each(nodes, one, within, nodes)
        searches = {name: answer for name, answer in said.items() if not isinstance(answer, NodeError)}
        silent = {name: answer for name, answer in said.items() if isinstance(answer, NodeError)}
        found = {
            name: [one for one in search.found if not self._is_code(job, one)] for name, search in searches.items()
        }
        listed = with_copies(job, gather(found, offsets, runs), self.kept(job))
        passed = {name: search.passed for name, search in searches.items() if search.passed}
        return CheckpointListing(listed, silent, passed | dict.fromkeys(self._unknown(job), (UNKNOWN,)))

    def _nodes(self, job: Job) -> dict[str, NodeConfig]:
        """Return the nodes that may have checkpoints: those of the inventory, and those that the job ran on."""
        return {**self._inventory.nodes, **ran_at(self._inventory, job)}

    def _unknown(self, job: Job) -> list[str]:
        """Return the nodes it ran on whose address is unknown; an earlier UGRO did not note it."""
        names = {node for run in runs_of(job) for node in run.nodes}
        return sorted(names - set(self._inventory.nodes) - {config.name for config in _configs(job)})

    def _is_code(self, job: Job, one: FoundCheckpoint) -> bool:
        """Whether this came with the job's code, such as pretrained weights, and is as it was there."""
        path = PurePosixPath(one.path)
        code = next((parent for parent in path.parents if parent.name == CODE and parent.parent.name == job.id), None)
        if code is None:
            return False
        versions = [self._store.jobs.files(job.id).snapshot(code.attempt) for code in (job.code, *job.earlier_code)]
        return any(_newest(version / path.relative_to(code)) == one.saved_at for version in versions)

    def kept(self, job: Job) -> dict[str, Checkpoint]:
        """Return the checkpoints that are complete on the master, by label."""
        return copies(self._store.jobs.files(job.id).checkpoints)

    async def bring(self, job: Job, checkpoint: Checkpoint, progress: Progress | None = None) -> Path:
        """Bring a complete checkpoint to the master and compare every file's checksum; all parts of a split one.

        Return the folder that holds it, under its own name. One that is here already is left as it is; others that the
        job's rules do not keep are removed.

        Raises:
            StateError: it cannot be written here. NodeError: no node that has it sent all of it.
        """
        assert checkpoint.position is not None and checkpoint.problem is None
        target = self._store.jobs.files(job.id).checkpoints / checkpoint.label
        if target.exists():
            return target
        with state_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            # Beside the job's other files, where `ugro gc` looks for what a killed command left. Another process may
            # bring the same one: the first that has all of it gives it its name.
            partial = Path(tempfile.mkdtemp(prefix=".tmp-checkpoint-", dir=self._store.jobs.files(job.id).folder))
            try:
                if checkpoint.split:
                    await self._bring_parts(job, checkpoint, partial, progress)
                else:
                    await self._bring_copy(job, checkpoint, partial, progress)
                write_atomic(target.with_name(f"{target.name}.json"), checkpoint.model_dump_json(indent=1))
                _take_name(partial, target)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        self._prune(job, checkpoint)
        return target

    async def _bring_copy(self, job: Job, checkpoint: Checkpoint, folder: Path, progress: Progress | None) -> None:
        """From the first node that gives it."""
        problem: NodeError | None = None
        for place in checkpoint.places:
            try:
                return await self._fetch(job, place, checkpoint, folder, progress)
            except NodeError as error:
                problem = error
        assert problem
        raise problem

    async def _bring_parts(self, job: Job, checkpoint: Checkpoint, folder: Path, progress: Progress | None) -> None:
        """From all nodes into one folder; where several have a file, that of the first counts."""
        for place in reversed(checkpoint.places):
            part = folder / f".part-{place.node}"
            part.mkdir()
            await self._fetch(job, place, checkpoint, part, progress)
            shutil.copytree(part, folder, dirs_exist_ok=True)
            shutil.rmtree(part)

    async def _fetch(
        self, job: Job, place: Place, checkpoint: Checkpoint, folder: Path, progress: Progress | None
    ) -> None:
        """Into a folder that is there: under the checkpoint's own name, or the parts of its ranks under theirs."""

        def tell(done: int, total: int) -> None:
            if progress:
                progress(place.node, done, total)

        target = folder if checkpoint.of_each_rank else folder / checkpoint.own_name
        config = self._nodes(job).get(place.node) or self._inventory.node(place.node)
        await checkpoints.fetch(self._pool.transport(config), place.path, target, tell, place.files)

    def _prune(self, job: Job, needed: Checkpoint) -> None:
        folder = self._store.jobs.files(job.id).checkpoints
        for one in outdated(list(self.kept(job).values()), self._store.jobs.spec(job.id)):
            if one.label != needed.label:
                with state_errors(folder / one.label):
                    shutil.rmtree(folder / one.label)
                    (folder / f"{one.label}.json").unlink(missing_ok=True)


def _take_name(partial: Path, target: Path) -> None:
    """Move a complete checkpoint to its place, unless another process has brought it meanwhile."""
    try:
        partial.rename(target)
    except OSError:
        if not target.is_dir():
            raise


def copies(folder: Path) -> dict[str, Checkpoint]:
    """Return the checkpoints in a job's folder for them on this machine, by label; each got its name once complete.

    One that an earlier UGRO brought has its step for a name, and no further description.

    Raises:
        StateError: the folder cannot be read.
    """
    with state_errors(folder):
        names = list(folder.iterdir()) if folder.is_dir() else []
        told = [_told(path) for path in names if path.is_dir() and path.with_name(f"{path.name}.json").is_file()]
        bare = [_bare_copy(path) for path in names if path.name.isdecimal()]
    return {one.label: one for one in in_order([*bare, *filter(None, told)])}


def _told(folder: Path) -> Checkpoint | None:
    """Read the description of a copy; None: its file is broken, so the checkpoint is not known."""
    try:
        told = Checkpoint.model_validate_json(folder.with_name(f"{folder.name}.json").read_text(encoding="utf-8"))
    except ValueError:
        return None
    return told.model_copy(update={"places": (), "split": False})


def _bare_copy(folder: Path) -> Checkpoint:
    return Checkpoint(
        step=int(folder.name),
        kind="copy",
        name=next((path.name for path in folder.iterdir()), folder.name),
        bytes=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        saved_at=folder.stat().st_mtime,
        places=(),
    )


def with_copies(job: Job, found: Sequence[Checkpoint], kept: Mapping[str, Checkpoint]) -> list[Checkpoint]:
    """Return the nodes' checkpoints by step, and this machine's copies of those that are complete on no node: each in
    the place of the nodes' parts of it.

    The time of a bare copy's save is known if the job resumed from it; else it was before the copy was made.
    """
    runs = runs_of(job)
    known = lineage(runs)
    whole = [one for one in found if one.problem is None]
    only_here = []
    for label, copy in kept.items():
        if any(label == one.label or (copy.attempt is None and copy.step == one.step) for one in whole):
            continue
        held = job.resume_from if job.resume_from and job.resume_from.label == label else copy
        attempt = held.attempt or writer(runs, held.saved_at, ())
        other = of_other_branch(held, attempt, known)
        only_here.append(held.model_copy(update={"places": (), "split": False, "other_branch": other}))
    held_here = {_identity(one) for one in only_here}
    return in_order([*(one for one in found if one.problem is None or _identity(one) not in held_here), *only_here])


def _identity(one: Checkpoint) -> tuple[str, str, str]:
    return one.label, one.kind, one.name


def outdated(kept: Sequence[Checkpoint], spec: JobSpec) -> list[Checkpoint]:
    """The copies, in their order, that a job's rules do not keep: the last ones are those of the latest attempts."""
    rules = spec.checkpoints
    last = sorted(kept, key=lambda one: (one.attempt or 0, one.position or 0))[-rules.keep_last :]
    every = rules.keep_every
    return [one for one in kept if one not in last and not (every and one.step is not None and one.step % every == 0)]


def _newest(path: Path) -> float | None:
    """Return when a file, or the newest file of a folder, was written."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return max((file.stat().st_mtime for file in files), default=None)


def ran_at(inventory: Inventory, job: Job) -> dict[str, NodeConfig]:
    """Return the nodes of all attempts of a job: as the inventory describes them now if it is the same machine, else as
    they were then, also where the inventory no longer has them.

    A node that has another address or account by now is another place, so it has these in its name here: its files
    are not on the node that has its plain name.
    """
    found = job.node_configs if job.state.on_nodes else {}
    for was in _configs(job):
        now = found.get(was.name) or inventory.nodes.get(was.name)
        if now is None or (now.address, now.user) == (was.address, was.user):
            found.setdefault(was.name, now or was)
        else:
            found.setdefault(_as_it_was(was), was)
    return found


def _configs(job: Job) -> list[NodeConfig]:
    """The nodes that a job ran on as they were described then, those of the latest attempt first."""
    placements = [job.placement, *(past.placement for past in reversed(job.past))]
    return [share.config for placement in placements if placement for share in placement.shares if share.config]


def _as_it_was(node: NodeConfig) -> str:
    return f"{node.name} ({f'{node.user}@' if node.user else ''}{node.address})"


def _job_dirs(job: Job, node: NodeConfig) -> list[str]:
    """Return a job's folder on a node, and its folders for earlier attempts, the first attempt last.

    `base_dir` may have been edited since; with another address or account it would be another place.
    """
    place = (node.name, node.address, node.user)
    same = [config for config in _configs(job) if (config.name, config.address, config.user) == place]
    return list(dict.fromkeys(RunPaths(one.base_dir, job.id, job.attempt, 0).job_dir for one in (node, *same)))


def roots(spec: JobSpec, code: str) -> list[str]:
    """Return where on a node a job's checkpoints may be: the directory it names, else its code or where it saves to."""
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
