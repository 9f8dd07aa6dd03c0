"""Enters nodes and running jobs: runs a command there, leads to a terminal, forwards a port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable
from contextlib import aclosing
from typing import NamedTuple

from ugro.common.errors import InputError, NodeError, NoSuchJob, PortClosed
from ugro.common.job_names import is_pattern
from ugro.common.models.job import Job, NodeShare
from ugro.common.paths import RunPaths, run_config, run_paths
from ugro.common.text import printable
from ugro.control_plane.scheduler.accepted import accepts
from ugro.nodes.own_input import STDIN, bytes_of
from ugro.nodes.pool import Pool
from ugro.nodes.relay import relay
from ugro.nodes.remote.entry import entry
from ugro.nodes.transport import Transport
from ugro.nodes.transport.base import Output
from ugro.service.command_output import Outcomes, follow
from ugro.service.context import Context
from ugro.service.schemas.entry import Execute, ExecuteOnInput, Forward, Forwarding, OpenTerminal, Terminal
from ugro.service.schemas.maintenance import CommandEnd, CommandOutput
from ugro.service.words import state_in_words


class EnteredPlace(NamedTuple):
    """A node, and the job that is entered there; None: the node alone."""

    node: str
    job: Job | None


async def execute(context: Context, request: Execute) -> AsyncIterator[CommandOutput | CommandEnd]:
    """Run a command in the surroundings of a job; yield what it prints, and how it ended.

    Raises:
        InputError: there is no such job, rank or node, the job has no ranks on nodes now, or the command is empty.
    """
    async with aclosing(_execute(context, request, None)) as items:
        async for item in items:
            yield item


async def execute_on_input(context: Context, request: ExecuteOnInput) -> AsyncIterator[CommandOutput | CommandEnd]:
    """Run it with the stdin of this process.

    Raises:
        InputError: as in `execute`.
    """
    async with aclosing(_execute(context, request, bytes_of(STDIN))) as items:
        async for item in items:
            yield item


async def _execute(
    context: Context, request: Execute, given: AsyncIterable[bytes] | None
) -> AsyncGenerator[CommandOutput | CommandEnd, None]:
    if not request.words or not request.words[0]:
        raise InputError("the command is empty", f"for example: ugro exec {request.job} -- nvidia-smi")
    place = _place_in(context, context.store.jobs.find(request.job), request.rank, request.node)
    transport, paths = await _run_of(context, place)

    async def run(output_of: Callable[[str], Output]) -> Outcomes:
        try:
            take = output_of(place.node) if request.live else None
            return {place.node: await entry.execute(transport, paths, request.words, take, given)}
        except NodeError as error:
            return {place.node: error}

    async with aclosing(follow(run)) as items:
        async for item in items:
            yield item


async def open_terminal(context: Context, request: OpenTerminal) -> Terminal:
    """Return the command line that gives a terminal.

    Raises:
        InputError: there is no such node, job or rank, or the job has no ranks on nodes now.
        KeyUnusable: the ssh_config of the node cannot be read.
    """
    place = _find(context, request.target, request.rank, request.node)
    words = request.words
    if place.job is None:
        transport = (await context.reach()).pool[place.node]
    else:
        transport, paths = await _run_of(context, place)
        words = (*entry.door(paths), *(words or entry.OWN_SHELL))
    return Terminal(
        node=place.node,
        job=place.job.id if place.job else None,
        words=await entry.terminal_words(transport, words),
    )


async def forward(context: Context, request: Forward) -> AsyncIterator[Forwarding]:
    """Forward a port until the asker has enough; yield once where it leads.

    Raises:
        InputError: there is no such node, job or rank, or the local port is in use.
        NodeError: the node is unreachable, or its sshd forwards nothing.
    """
    place = _find(context, request.target, request.rank, request.node, ended_too=True)
    transport = _transport(context, (await context.reach()).pool, place)
    problem = None
    try:
        _, writer = await transport.connect(request.remote_port)
        writer.close()
    except PortClosed as error:  # a server that is about to start
        problem = error.message
    async with relay(transport, request.local_port, request.remote_port) as port:
        yield Forwarding(
            node=place.node,
            job=place.job.id if place.job else None,
            local_port=port,
            remote_port=request.remote_port,
            problem=problem,
        )
        await asyncio.Event().wait()


# --- where -----------------------------------------------------------------------------------------------------------


def _find(context: Context, target: str, rank: int | None, node: str | None, ended_too: bool = False) -> EnteredPlace:
    """Find what a target stands for: a node of the inventory before a job of the same name.

    Raises:
        InputError: it is neither, or a rank or node of a job is named that it does not have.
    """
    if target in context.cluster.nodes:
        if rank is not None or node is not None:
            raise InputError(f"{target} is a node", "--rank and --node choose a node of a job")
        return EnteredPlace(target, None)
    try:
        job = context.store.jobs.find(target)
    except NoSuchJob as error:
        if is_pattern(target):  # it may mean several jobs, which the error names
            raise
        hint = f"nodes: {', '.join(context.cluster.nodes)}; `ugro status` lists the jobs"
        raise NoSuchJob(f"there is no node and no job {printable(target)!r}", hint) from error
    return _place_in(context, job, rank, node, ended_too)


def _place_in(context: Context, job: Job, rank: int | None, node: str | None, ended_too: bool = False) -> EnteredPlace:
    """Return the node of a rank of a job, or one of its nodes by name; else that of rank 0."""
    if not job.nodes or not (ended_too or accepts("exec", job)):
        where = f"; it was on {', '.join(job.nodes)}" if job.nodes and job.state.ended else ""
        there = next((name for name in job.nodes if name in context.inventory.nodes), None)
        hint = f"see: ugro {'why' if not job.state.ended else 'ls' if job.nodes else 'status'} {job.id}"
        hint = f"ugro ssh {there}" if there and job.state.ended else hint
        raise InputError(f"{state_in_words(job)}{where}: only a job that runs can be entered", hint)
    if node is not None and node not in job.nodes:
        raise InputError(f"{job.id} is not on {printable(node)}", f"it is on {', '.join(job.nodes)}")
    if rank is None:
        return EnteredPlace(node or job.nodes[0], job)
    share = _share_of(job, rank)
    if node is not None and share.node != node:
        raise InputError(f"rank {rank} of {job.id} is on {share.node}, not on {printable(node)}", "name one of the two")
    return EnteredPlace(share.node, job)


def _share_of(job: Job, rank: int) -> NodeShare:
    shares = job.placement.shares if job.placement else ()
    for share in shares:
        if share.first_rank <= rank < share.first_rank + share.nproc:
            return share
    last = sum(share.nproc for share in shares) - 1
    raise InputError(f"{job.id} has no rank {rank}", f"its ranks are 0 to {last}")


# --- what is there ---------------------------------------------------------------------------------------------------


def _transport(context: Context, pool: Pool, place: EnteredPlace) -> Transport:
    config = run_config(context.cluster, place.job, place.node) if place.job else None
    return pool.transport(config) if config else pool[place.node]


async def _run_of(context: Context, place: EnteredPlace) -> tuple[Transport, RunPaths]:
    """Return the node of a job that is entered, and the paths of its run there."""
    assert place.job
    transport = _transport(context, (await context.reach()).pool, place)
    if paths := run_paths(context.cluster, place.job, place.node):
        return transport, paths
    raise InputError(f"{place.node} is not in the inventory any more", f"see: ugro status {place.job.id}")
