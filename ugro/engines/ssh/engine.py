"""Runs attempts on machines that are reached by SSH: scripts of UGRO start, show and end the ranks on each of them."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ugro.common.clock import Clock
from ugro.common.config import Inventory, NodeConfig
from ugro.common.errors import CommandTimedOut, LinkLost, NodeError, NodeRefused, Unreachable
from ugro.common.job_spec import JobSpec
from ugro.common.models.job import Job
from ugro.common.models.run import LogEnd, LogFetch
from ugro.common.paths import CODE, RunPaths, run_config, run_paths
from ugro.common.text import some
from ugro.engines.base import Cargo, Ending, Observation, Prepared
from ugro.engines.ssh.environment import EnvironmentMaker
from ugro.engines.ssh.meeting import MEET_AGAIN, meet
from ugro.engines.ssh.observer import Observer
from ugro.nodes.pool import Pool
from ugro.nodes.remote.logs import log_streamer
from ugro.nodes.remote.owner.owner import claim, is_same_master
from ugro.nodes.remote.run import process_manager
from ugro.nodes.remote.run.process_manager import NodeLaunch, Stopped
from ugro.nodes.remote.setup.setup import JobInterpreters
from ugro.nodes.transport import Transport

T = TypeVar("T")
U = TypeVar("U")

NO_ANSWER = (Unreachable, LinkLost, CommandTimedOut)
"""Errors of a node that says nothing of what became of a job: it is gone, cut off, or hangs (a home that is dead)."""


class SshEngine:
    """The engine of one inventory, over the connections of a pool.

    Every step may be repeated: folders are claimed once, code that is there is not sent again.
    """

    def __init__(self, inventory: Inventory, pool: Pool, clock: Clock, master: Callable[[], str]) -> None:
        """`master` says this master's line in the owner files of its nodes; it is asked when something is prepared."""
        self._inventory = inventory
        self._pool = pool
        self._master = master
        self._observer = Observer(pool, clock)
        self._environments = EnvironmentMaker(pool, clock, self._paths)

    @property
    def inventory(self) -> Inventory:
        """The machines, as they are described now."""
        return self._inventory

    async def adopt(self, inventory: Inventory, kept: Iterable[NodeConfig]) -> None:
        """Use an edited inventory. Connections to nodes that are described as before, or in `kept`, stay open."""
        self._inventory = inventory
        await self._pool.adopt(inventory, kept)

    async def close(self) -> None:
        """Give up the questions that are not answered. The pool is its owner's to close."""
        await self._observer.close()

    # --- starting ----------------------------------------------------------------------------------------------------

    async def prepare(
        self, job: Job, spec: JobSpec, cargo: Cargo | None = None, owners: Mapping[str, str] | None = None
    ) -> Prepared:
        """Claim the nodes, make the job's folders, bring its cargo, and agree on where the ranks meet.

        Raises:
            NodeError: of the first node by rank that cannot start its part.
        """
        if cargo is None:
            found = await self._environments.rehearse(job, spec)
            meeting = await meet(self._pool, job, interpreters=found)
        else:
            await self._claim(job, owners or {})
            storages = await self._make_folders(job)
            found = await self._environments.find(job, spec)
            await self._send_checkpoint(job, cargo)
            if spec.setup:
                await self._send_code(job, cargo, storages)
                found = await self._environments.set_up(job, spec, cargo, storages, found)
                meeting = await meet(self._pool, job, MEET_AGAIN, found)
            else:
                meet_now = meet(self._pool, job, MEET_AGAIN, found)
                _, meeting = await _both(self._send_code(job, cargo, storages), meet_now)
        interfaces = meeting.interfaces()
        assert job.placement
        placement = job.placement.model_copy(update={"master_addr": meeting.address, "master_port": meeting.port})
        job = job.changed(placement=placement)
        scripts = {
            node: process_manager.launch_script(self._launch(job, spec, node, interfaces[node], found))
            for node in job.nodes
        }
        return Prepared(placement, scripts, interfaces, cargo.secrets if cargo else {}, found.pythons)

    async def start(self, job: Job, prepared: Prepared) -> None:
        """Start every node of a job whose meeting point is known.

        Raises:
            NodeError: of the first node by rank that did not start, or may not have.
        """

        async def one(transport: Transport) -> None:
            paths = self._paths(job, transport.name)
            await process_manager.start(transport, paths, job.uid, prepared.scripts[transport.name], prepared.secrets)

        await self._all(job, one)

    async def _claim(self, job: Job, owners: Mapping[str, str]) -> None:
        """Claim those of the job's nodes that have no master."""
        master = self._master()

        async def one(transport: Transport) -> str:
            known = owners.get(transport.name, "")
            return known if is_same_master(known, master) else await claim(transport, master, False)

        for node, line in (await self._all(job, one)).items():
            if not is_same_master(line, master):
                told = f"another master runs it: {line.partition(' ')[2]}"
                raise NodeRefused(node, told, "to make this one its master: ugro launch --takeover")

    async def _make_folders(self, job: Job) -> dict[str, str]:
        """Make the job's folder on every node. Returns the id of the storage that each has it on."""
        return await self._all(
            job, lambda transport: process_manager.make_folder(transport, transport.node.base_dir, job.id, job.uid)
        )

    async def _send_code(self, job: Job, cargo: Cargo, storages: dict[str, str]) -> None:
        """Code arrives once per storage: nodes that share a home are one of them."""
        from ugro.nodes.code_sync import push_code  # here, since all who look have the engine and few of them launch

        receivers = {storage: node for node, storage in reversed(storages.items())}

        async def push(transport: Transport) -> None:
            if receivers[storages[transport.name]] == transport.name:
                folder, progress = self._paths(job, transport.name).job_dir, _progress(cargo, transport.name)
                await push_code(transport, cargo.code, folder, progress, cargo.earlier_code)

        await self._all(job, push)

    async def _send_checkpoint(self, job: Job, cargo: Cargo) -> None:
        """Send the checkpoint that a job resumes from to the nodes that lack it."""
        lacking = [node for node in job.nodes if job.resume_from and node not in job.resume_from.whole_at]
        if not lacking:
            return
        from ugro.nodes.code_sync import push_code

        held = await cargo.bring_checkpoint()

        async def push(transport: Transport) -> None:
            if transport.name in lacking:
                await push_code(
                    transport, held, self._resume_dir(job, transport.name), _progress(cargo, transport.name)
                )

        await self._all(job, push)

    def _launch(self, job: Job, spec: JobSpec, node: str, interface: str | None, found: JobInterpreters) -> NodeLaunch:
        """Return what a node starts."""
        assert job.placement
        config = self._config(job, node)
        share = next(share for share in job.placement.shares if share.node == node)
        return NodeLaunch(
            paths=self._paths(job, node),
            uid=job.uid,
            command=spec.words,
            nnodes=len(job.placement.shares),
            nproc=share.nproc,
            master_addr=job.placement.master_addr or "",
            master_port=job.placement.master_port or 0,
            python=found.pythons.get(node, config.python),
            gpus=share.gpus,
            interface=interface,
            env=process_manager.merged_env(config.env, spec.env, found.variables(node)),
            secrets=tuple(spec.secret_names),
            time_limit=spec.time_limit,
            time_warning=spec.warning_seconds,
            shares=share.batch_shares,
            part=share.part,
            resume_from=self._checkpoint_path(job, node),
            resume_words=tuple(shlex.split(spec.checkpoints.resume)),
            resume_of_each_rank=job.resume_from is not None and job.resume_from.of_each_rank,
            launcher=spec.launcher,
            launcher_args=spec.launcher_args,
            world=tuple((share.node, share.nproc, share.gpus) for share in job.placement.shares),
        )

    def _checkpoint_path(self, job: Job, node: str) -> str | None:
        """Return where a node has the checkpoint that the job resumes from: in its own place, or as a copy."""
        if job.resume_from is None:
            return None
        sent = f"{self._resume_dir(job, node)}/{CODE}/{job.resume_from.own_name}"
        return job.resume_from.whole_at.get(node, sent)

    def _resume_dir(self, job: Job, node: str) -> str:
        return f"{self._paths(job, node).job_dir}/resume-{job.attempt}"

    # --- following ---------------------------------------------------------------------------------------------------

    @property
    def pending(self) -> Collection[asyncio.Future[Any]]:
        """The questions to nodes that are not answered so far."""
        return self._observer.pending

    async def observe(
        self, jobs: Sequence[Job], names: Iterable[str], within: float | None = None, keep: bool = False
    ) -> Observation:
        """Ask each node once, for itself and for all that these jobs have there."""
        return await self._observer.observe(self._inventory, jobs, names, within, keep)

    async def set_time_limit(self, job: Job, spec: JobSpec, nodes: Sequence[str]) -> dict[str, NodeError | None]:
        """Let the ranks on these nodes keep the time limit that the job has by now. Returns what each node said."""

        async def one(transport: Transport) -> None:
            if spec.time_limit is not None:
                paths = self._paths(job, transport.name)
                await process_manager.set_time_limit(transport, paths, spec.time_limit, spec.warning_seconds)

        return await self._pool.each(self._known(job, nodes), one, configs=job.node_configs)

    async def fetch_logs(
        self, job: Job, node: str, folder: Path, *, at: float, starts: Mapping[str, int], most: int
    ) -> LogFetch:
        """Append what is new in the logs on a node to their copies in a folder, in one round trip.

        Raises:
            NodeError: the node cannot be read now.
        """
        transport = self._pool.transport(self._config(job, node))
        return await log_streamer.fetch(transport, self._paths(job, node), folder, at, starts, most)

    async def log_ends(self, job: Job, node: str, lines: int, limit: int) -> Mapping[str, LogEnd]:
        """Return where the last lines of the logs on a node begin.

        Raises:
            NodeError: the node cannot be read now.
        """
        transport = self._pool.transport(self._config(job, node))
        return await log_streamer.ends(transport, self._paths(job, node), lines, limit)

    # --- ending ------------------------------------------------------------------------------------------------------

    async def stop(self, job: Job, grace: float, nodes: Sequence[str], within: float | None = None) -> Ending:
        """End every process of a job on these nodes. A node has `within` seconds to say that it did."""

        async def one(transport: Transport) -> Stopped:
            paths, began = self._paths(job, transport.name), job.began_on(transport.name)
            return await process_manager.stop(transport, paths, job.uid, grace, began=began)

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

    async def leftovers(self, job: Job) -> dict[str, str]:
        """Return the processes that a job left outside of torchrun's tree, in words, by node; or why not known."""

        async def one(transport: Transport) -> str:
            found = await process_manager.detached(transport, self._paths(job, transport.name), job.uid)
            return some([process.text for process in found])

        answers = await self._pool.each(self._known(job, job.nodes), one, configs=job.node_configs)
        words = {node: said.problem if isinstance(said, NodeError) else said for node, said in answers.items()}
        return {node: said for node, said in words.items() if said}

    # --- where jobs are ----------------------------------------------------------------------------------------------

    def _known(self, job: Job, nodes: Sequence[str]) -> list[str]:
        """Return those of these nodes on which the place of the job's attempt is known."""
        return [node for node in nodes if run_paths(self._inventory, job, node)]

    def _config(self, job: Job, node: str) -> NodeConfig:
        """A node as the job was placed on it; the inventory may say something else by now."""
        return run_config(self._inventory, job, node) or self._inventory.node(node)

    def _paths(self, job: Job, node: str) -> RunPaths:
        return RunPaths(self._config(job, node).base_dir, job.id, job.attempt, job.nodes.index(node))

    async def _all(self, job: Job, act: Callable[[Transport], Awaitable[T]]) -> dict[str, T]:
        """Do something on all nodes of a job; the first error by node rank is the reason why the job does not start."""
        done: dict[str, T] = {}
        for node, answer in (await self._pool.each(job.nodes, act, configs=job.node_configs)).items():
            if isinstance(answer, NodeError):
                raise answer
            done[node] = answer
        return done


def _progress(cargo: Cargo, node: str) -> Callable[[int, int], None] | None:
    on_sent = cargo.on_sent
    return (lambda sent, total: on_sent(node, sent, total)) if on_sent else None


async def _both(first: Awaitable[T], second: Awaitable[U]) -> tuple[T, U]:
    """Both at the same time; where one fails, nothing is given up half done: the other comes to its end too."""
    one, other = await asyncio.gather(first, second, return_exceptions=True)
    if isinstance(one, BaseException):
        raise one
    if isinstance(other, BaseException):
        raise other
    return one, other
