"""Acts on nodes: drain them, measure their GPUs, run a command on each, make a scheduling pass."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path

from ugro.common.errors import InputError, NodeError, StateLocked
from ugro.common.models.drain import Drain
from ugro.common.text import one_line
from ugro.common.troubles import trouble_of
from ugro.control_plane.metadata_store.records import stop_where_held
from ugro.control_plane.resource_manager.governor import leases
from ugro.control_plane.scheduler.queue import read_capacities
from ugro.nodes.remote.command import command
from ugro.nodes.remote.speed import speed
from ugro.nodes.remote.speed.speed import MeasuredSpeed
from ugro.nodes.transport import Outcome, Transport
from ugro.nodes.transport.base import Output
from ugro.sandbox.shell import is_sandbox
from ugro.service.command_output import Outcomes, follow
from ugro.service.context import Context
from ugro.service.documents import error_document
from ugro.service.news import news_of
from ugro.service.schemas.base import ErrorDocument
from ugro.service.schemas.jobs import EventDocument
from ugro.service.schemas.maintenance import (
    ChangesDocument,
    CommandEnd,
    CommandOutput,
    Drained,
    DrainNode,
    Measure,
    Measured,
    NodeNames,
    RunCommand,
    SelectNodes,
    SpeedDocument,
    Sweep,
    Swept,
    Undrained,
    UndrainedDocument,
    UndrainNode,
)


async def select(context: Context, request: SelectNodes) -> NodeNames:
    """Return the nodes that a comma-separated list stands for.

    Raises:
        InputError: one of them is not in the inventory.
    """
    return NodeNames(names=tuple(node.name for node in context.inventory.select(request.nodes)))


async def drain(context: Context, request: DrainNode) -> Drained:
    """Give a node no new jobs. What runs there continues.

    Raises:
        InputError: there is no such node, or the reason is empty.
    """
    context.cluster.node(request.node)
    said = one_line(request.reason)
    if not said:
        raise InputError("the reason is empty")
    store, name = context.store, request.node

    def record() -> list[str]:
        store.config.drain(Drain(node=name, reason=said, since=time.time()))
        return [job.id for job in store.jobs.live(stop_where_held) if name in job.nodes and job.state.on_nodes]

    return Drained(node=name, reason=said, running=tuple(await store.write(record)))


async def undrain(context: Context, request: UndrainNode) -> Undrained:
    """Give a node jobs again.

    Raises:
        InputError: there is no such node.
    """
    context.cluster.node(request.node)
    was = await context.store.write(lambda: context.store.config.undrain(request.node))
    return Undrained(answer=UndrainedDocument(node=request.node), was_drained=was)


async def measure(context: Context, request: Measure) -> Measured:
    """Measure how fast each idle GPU trains, and keep it, so that mixed GPUs can share a batch by speed.

    Raises:
        InputError: there is no such node, or its GPUs are simulated.
    """
    store, inventory = context.store, context.inventory
    chosen = [node.name for node in inventory.select(request.nodes)]
    if is_sandbox(inventory.path):
        raise InputError("the sandbox's GPUs are simulated: there is no speed to measure", "use your own inventory")
    controller, pool = await context.reach()
    views = (await controller.observe([], chosen)).views
    idle = read_capacities(store, inventory, store.jobs.live(stop_where_held), views)
    held = leases(store.jobs.live(stop_where_held))

    async def one(transport: Transport) -> list[MeasuredSpeed]:
        capacity = idle[transport.name]
        free = [slot.key for slot in capacity.gpus if slot.key not in held and slot.key not in capacity.busy]
        return await speed.measure(transport, free) if free else []

    found = await pool.each(chosen, one)
    speeds = [(node, each) for node, answer in found.items() if not isinstance(answer, NodeError) for each in answer]

    def record() -> None:
        for _, each in speeds:
            if each.uuid:
                store.metrics.remember_speed(each.uuid, each.name, each.steps_per_second)

    await store.write(record)
    errors = [answer for answer in found.values() if isinstance(answer, NodeError)]
    return Measured(
        answer=tuple(SpeedDocument(node=node, **each.model_dump()) for node, each in speeds),
        errors=tuple(map(error_document, errors)),
        exit_code=max((error.exit_code for error in errors), default=0),
    )


async def run_command(context: Context, request: RunCommand) -> AsyncIterator[CommandOutput | CommandEnd]:
    """Run the same command on nodes; yield what it prints there, and how it ended on each in their order.

    Raises:
        InputError: there is no such node, or the command is empty.
    """
    chosen = [node.name for node in context.inventory.select(request.nodes)]
    if not request.words[0]:
        raise InputError("the command is empty")
    pool = (await context.reach()).pool

    async def run(output_of: Callable[[str], Output]) -> Outcomes:
        async def one(transport: Transport) -> Outcome:
            take = output_of(transport.name) if request.live else None
            return await command.run_command(transport, request.words, take)

        return await pool.each(chosen, one)

    async with aclosing(follow(run)) as items:
        async for item in items:
            yield item


async def sweep(context: Context, request: Sweep) -> Swept:
    """Make one scheduling pass: observe the cluster, and take the next step of every job.

    Raises:
        UgroError: what stopped a step; the others were taken.
    """
    busy, untold, began_at = None, None, context.store.bus.cursor
    try:
        await context.tick(patience=0)
    except StateLocked as error:
        busy = error.message
    finally:
        if request.textfile and not busy:
            untold = await _tell_prometheus(context, Path(request.textfile))
    await context.rest()
    await context.courier.rest()  # a channel that fails is news
    return Swept(
        answer=ChangesDocument(changes=tuple(map(EventDocument.of, news_of(context.store, began_at)))),
        problems=tuple(map(error_document, context.store.problems())),
        busy=busy,
        untold=untold,
    )


async def _tell_prometheus(context: Context, folder: Path) -> ErrorDocument | None:
    """Leave what a pass saw in a folder; return why that could not be. Whatever it is, the pass was made."""
    from ugro.service.exposition import write_textfile  # these here, since their import takes long
    from ugro.service.monitoring import Monitor

    def write() -> None:
        now = context.store.clock.now()
        write_textfile(Monitor(context.store).read(context.cluster, swept_at=now), folder)

    try:
        await asyncio.to_thread(write)
    except Exception as error:
        return error_document(trouble_of("the file for Prometheus", error))
    return None
