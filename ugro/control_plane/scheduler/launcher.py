"""Brings one placed job onto its nodes, all of them or none, and takes it off them again."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from ugro.common.config import Inventory, NodeConfig
from ugro.common.errors import CommandTimedOut, LinkLost, NodeError, NodeRefused, UgroError, Unreachable
from ugro.common.job_spec import JobSpec
from ugro.common.models.job import Job
from ugro.common.paths import CODE, RunPaths, run_config, run_paths
from ugro.common.text import some
from ugro.control_plane import transitions
from ugro.control_plane.metadata_store import MetadataStore
from ugro.engines.ssh.meeting import find_meeting
from ugro.nodes.pool import Pool
from ugro.nodes.remote.owner.owner import claim, is_same_master
from ugro.nodes.remote.run import process_manager
from ugro.nodes.remote.run.process_manager import PORTS, Launch, Stopped
from ugro.nodes.transport import Transport

T = TypeVar("T")
U = TypeVar("U")

OnCode = Callable[[str, int, int], None]
"""Told the node, the bytes of code sent so far, and the bytes to send."""


MEET_AGAIN = (5.0, 10.0)
"""Seconds after which nodes are asked again that get no answer from where the ranks would meet: once is no proof."""


NO_ANSWER = (Unreachable, LinkLost, CommandTimedOut)
"""Errors of a node that says nothing of what became of a job: it is gone, cut off, or hangs (a home that is dead)."""


class NotStarted(UgroError):
    """A node could not start its part. `job` is the record as it stood, `node` the one that could not, `error` why."""

    code = "launch_failed"

    def __init__(self, job: Job, error: NodeError) -> None:
        super().__init__(error.message, error.hint)
        self.job = job
        self.node = error.node
        self.error = error


@dataclass(frozen=True)
class Ending:
    """What came of ending a job: what is in the way of saying that it is over, the nodes that could not be reached or
    gave no answer, by node, in words, what ran there outside of torchrun's own tree and was ended, and the nodes that
    `proved` that no process of it remains. On the others none was found.
    """

    problems: list[str]
    unreached: list[str] = field(default_factory=list)
    detached: dict[str, str] = field(default_factory=dict)
    proved: list[str] = field(default_factory=list)


class Launcher:
    """Every step may be repeated: folders are claimed once, code that is there is not sent again."""

    def __init__(self, store: MetadataStore, inventory: Inventory, pool: Pool, on_code: OnCode | None) -> None:
        self._store = store
        self.inventory = inventory
        self._pool = pool
        self._on_code = on_code

    async def launch(self, job: Job, owners: Mapping[str, str]) -> Job:
        """Send the code, agree on a meeting point, start every node. Returns the job with the meeting point filled in.

        `owners` has the owner lines of nodes as they were just seen.

        Raises:
            NotStarted: a node cannot; what did start is the caller's to stop.
        """
        spec = self._store.jobs.spec(job.id)
        await self._claim(job, owners)
        storages = await self._make_folders(job)
        await self._send_checkpoint(job)
        _, (met, interfaces) = await _both(self._send_code(job, storages), self.meet(job, MEET_AGAIN))
        assert met.placement
        placed = transitions.set_meeting_point(job, met.placement, self._store.clock.now(), self._meeting_words(met))
        job = await self._store.write(lambda: self._store.jobs.save(*placed))
        await self.start(job, spec, interfaces)
        return job

    async def _claim(self, job: Job, owners: Mapping[str, str]) -> None:
        """Make the job's nodes this master's, those that are nobody's yet."""
        master = self._store.config.master()

        async def one(transport: Transport) -> str:
            known = owners.get(transport.name, "")
            return known if is_same_master(known, master) else await claim(transport, master, False)

        for node, line in (await self._all(job, one)).items():
            if not is_same_master(line, master):
                told = f"another master runs it: {line.partition(' ')[2]}"
                raise NotStarted(job, NodeRefused(node, told, "to make this one its master: ugro launch --takeover"))

    async def meet(self, job: Job, again: Sequence[float] = ()) -> tuple[Job, dict[str, str | None]]:
        """See that every node can start its part once the code is there, and fill in where the ranks meet.

        Returns the interface that each node uses too. A node without an answer is asked `again` after so many seconds.

        Raises:
            NotStarted: a node cannot.
        """
        assert job.placement
        address, port = job.placement.master_addr, job.placement.master_port
        known = (address, port) if address and port else None
        for pause in (*again, None):
            meeting = await find_meeting(self._pool, job.nodes, _port_range(job), known, job.node_configs)
            if pause is None or not meeting.unanswered:
                break
            await asyncio.sleep(pause)
        try:
            interfaces = meeting.interfaces()
        except NodeError as error:
            raise NotStarted(job, error) from None
        changed = {"master_addr": meeting.address, "master_port": meeting.port}
        return job.changed(placement=job.placement.model_copy(update=changed)), interfaces

    async def start(self, job: Job, spec: JobSpec, interfaces: Mapping[str, str | None]) -> None:
        """Start every node of a job whose meeting point is known.

        Raises:
            NotStarted: a node cannot; what did start is the caller's to stop.
        """

        async def one(transport: Transport) -> None:
            plan = self.plan(job, spec, transport.name, interfaces[transport.name])
            await process_manager.start(transport, plan)

        await self._all(job, one)

    async def rehearse(self, job: Job, spec: JobSpec) -> dict[str, str]:
        """The `launch.sh` that each node would get. Nodes are asked, and nothing is written anywhere.

        Raises:
            NotStarted: a node could not start its part.
        """
        job, interfaces = await self.meet(job)
        plans = {node: self.plan(job, spec, node, interfaces[node]) for node in job.nodes}
        return {node: process_manager.launch_script(plan) for node, plan in plans.items()}

    def plan(self, job: Job, spec: JobSpec, node: str, interface: str | None) -> Launch:
        """What a node would be told to start."""
        assert job.placement
        config = self._config(job, node)
        share = next(share for share in job.placement.shares if share.node == node)
        return Launch(
            paths=RunPaths(config.base_dir, job.id, job.attempt, share.node_rank),
            uid=job.uid,
            command=spec.command,
            nnodes=len(job.placement.shares),
            nproc=share.nproc,
            master_addr=job.placement.master_addr or "",
            master_port=job.placement.master_port or 0,
            python=config.python,
            gpus=share.gpus,
            interface=interface,
            env=process_manager.merged_env(config.env, spec.env),
            time_limit=spec.time_limit,
            time_warning=spec.warning_seconds,
            shares=share.batch_shares,
            resume_from=_checkpoint_path(job, config),
            resume_words=tuple(shlex.split(spec.checkpoints.resume)),
            resume_of_each_rank=job.resume_from is not None and job.resume_from.of_each_rank,
        )

    async def set_time_limit(self, job: Job, spec: JobSpec, nodes: Sequence[str]) -> dict[str, NodeError | None]:
        """Let the ranks on these nodes keep the time limit that the job has by now. Returns what each node said."""

        async def one(transport: Transport) -> None:
            paths = run_paths(self.inventory, job, transport.name)
            if paths and spec.time_limit is not None:
                await process_manager.set_time_limit(transport, paths, spec.time_limit, spec.warning_seconds)

        return await self._pool.each(self._known(job, nodes), one, configs=job.node_configs)

    async def stop(self, job: Job, grace: float, nodes: Sequence[str], within: float | None = None) -> Ending:
        """End every process of a job on these nodes. A node has `within` seconds to say that it did."""

        async def one(transport: Transport) -> Stopped:
            paths = run_paths(self.inventory, job, transport.name)
            if not paths:
                return Stopped((), ())
            return await process_manager.stop(transport, paths, job.uid, grace, began=job.began_on(transport.name))

        known = self._known(job, nodes)
        ending = Ending([f"{node} is not in the inventory any more" for node in nodes if node not in known])
        answers = await self._pool.each(known, one, within, job.node_configs)
        for node, answer in answers.items():
            if isinstance(answer, NodeError):
                ending.problems.append(answer.message)
                ending.unreached.extend([node] if isinstance(answer, NO_ANSWER) else [])
                continue
            if answer.left:
                ending.problems.append(f"{node}: pid {', '.join(map(str, answer.left))} cannot be ended (state D?)")
            if ended := [process.text for process in answer.detached if process.pid not in answer.left]:
                ending.detached[node] = ", ".join(ended)
            ending.proved.extend([node] if answer.proved else [])
        return ending

    async def detached(self, job: Job) -> dict[str, str]:
        """What a job left running outside of torchrun's tree, in words, on the nodes where it did; or why that is not
        known.
        """

        async def one(transport: Transport) -> str:
            paths = run_paths(self.inventory, job, transport.name)
            found = await process_manager.detached(transport, paths, job.uid) if paths else ()
            return some([process.text for process in found])

        answers = await self._pool.each(self._known(job, job.nodes), one, configs=job.node_configs)
        words = {node: said.problem if isinstance(said, NodeError) else said for node, said in answers.items()}
        return {node: said for node, said in words.items() if said}

    async def _make_folders(self, job: Job) -> dict[str, str]:
        """Make the job's folder on every node. Returns the id of the storage that each has it on."""
        return await self._all(
            job, lambda transport: process_manager.make_folder(transport, transport.node.base_dir, job.id, job.uid)
        )

    async def _send_code(self, job: Job, storages: dict[str, str]) -> None:
        """Code arrives once per storage: nodes that share a home are one of them."""
        from ugro.nodes.code_sync import push_code  # here, since all who look have the launcher and few of them launch

        files = self._store.jobs.files(job.id)
        snapshot, before = files.snapshot(job.code.attempt), [files.snapshot(code.attempt) for code in job.earlier_code]
        receivers = {storage: node for node, storage in reversed(storages.items())}

        async def push(transport: Transport) -> None:
            if receivers[storages[transport.name]] != transport.name:
                return
            job_dir = RunPaths(transport.node.base_dir, job.id, job.attempt, 0).job_dir
            await push_code(transport, snapshot, job_dir, self._progress(transport.name), before)

        await self._all(job, push)

    async def _send_checkpoint(self, job: Job) -> None:
        """Nodes that do not have the checkpoint which a job goes on from get a copy of the master's."""
        checkpoint = job.resume_from
        _require_ranks(job)
        lacking = [node for node in job.nodes if checkpoint and node not in checkpoint.whole_at]
        if not checkpoint or not lacking:
            return
        from ugro.control_plane.metadata_store.checkpoint_store import CheckpointStore
        from ugro.nodes.code_sync import push_code

        held = await CheckpointStore(self._store, self.inventory, self._pool).bring(job, checkpoint, self._on_code)

        async def push(transport: Transport) -> None:
            if transport.name in lacking:
                folder = _resume_dir(job, transport.node)
                await push_code(transport, held, folder, progress=self._progress(transport.name))

        await self._all(job, push)

    def _progress(self, node: str) -> Callable[[int, int], None] | None:
        on_code = self._on_code
        return (lambda sent, total: on_code(node, sent, total)) if on_code else None

    def _known(self, job: Job, nodes: Sequence[str]) -> list[str]:
        """Those of these nodes of which it is known where they are."""
        return [node for node in nodes if run_paths(self.inventory, job, node)]

    def _config(self, job: Job, node: str) -> NodeConfig:
        """A node as the job was placed on it; the inventory may say something else by now."""
        return run_config(self.inventory, job, node) or self.inventory.node(node)

    @staticmethod
    def _meeting_words(job: Job) -> str:
        assert job.placement
        return f"ranks meet at {job.placement.master_addr}:{job.placement.master_port} on {job.nodes[0]}"

    async def _all(self, job: Job, act: Callable[[Transport], Awaitable[T]]) -> dict[str, T]:
        """Do something on all nodes of a job; the first error by node rank is the reason why the job does not start."""
        answers = await self._pool.each(job.nodes, act, configs=job.node_configs)
        done: dict[str, T] = {}
        for node, answer in answers.items():
            if isinstance(answer, NodeError):
                raise NotStarted(job, answer)
            done[node] = answer
        return done


def nothing_runs(what: str, nodes: Sequence[str], proved: Collection[str]) -> str:
    """Say what is known of nodes where a job was ended: `no processes of it remain on gpu1` only where it is proved."""
    sure, others = [node for node in nodes if node in proved], [node for node in nodes if node not in proved]
    said = [f"no processes of {what} remain on {', '.join(sure)}"] if sure else []
    said += [f"no process of {what} was found on {', '.join(others)}"] if others else []
    return "; ".join(said)


async def _both(first: Awaitable[T], second: Awaitable[U]) -> tuple[T, U]:
    """Both at the same time; where one fails, nothing is given up half done: the other comes to its end too."""
    one, other = await asyncio.gather(first, second, return_exceptions=True)
    if isinstance(one, BaseException):
        raise one
    if isinstance(other, BaseException):
        raise other
    return one, other


def _resume_dir(job: Job, config: NodeConfig) -> str:
    return f"{RunPaths(config.base_dir, job.id, job.attempt, 0).job_dir}/resume-{job.attempt}"


def _checkpoint_path(job: Job, config: NodeConfig) -> str | None:
    """Where a node has the checkpoint that the job goes on from: in its own place, or where a copy was sent to."""
    if job.resume_from is None:
        return None
    sent = f"{_resume_dir(job, config)}/{CODE}/{job.resume_from.own_name}"
    return job.resume_from.whole_at.get(config.name, sent)


def _require_ranks(job: Job) -> None:
    """A rank that is new would find no part of its own, and the part of one that is gone would be left out.

    Raises:
        NotStarted: the checkpoint has the parts of more or fewer ranks than there are.
    """
    held = job.resume_from
    if held and held.ranks and job.placement and held.ranks != job.placement.world_size:
        told = f"{held.name} has the parts of {held.ranks} ranks, and this attempt has {job.placement.world_size}"
        hint = f"resume on nodes with {held.ranks} ranks, or start again: ugro resume {job.id} --from 0"
        raise NotStarted(job, NodeRefused(job.nodes[0], told, hint))


def _port_range(job: Job) -> tuple[int, int]:
    """Jobs begin their search at different ports, so that two launches at once do not pick the same one."""
    first, last = PORTS
    number = int(job.id.rpartition("-")[2], 16)  # job-012 and check-1a2b3c4d alike
    return first + number * 7 % ((last - first) // 2), last
