"""Gives a node another name. What is known of the node follows; ended jobs keep the name that it had."""

from __future__ import annotations

from ugro.common.errors import InputError
from ugro.common.fields import is_node_name
from ugro.common.inventory_edit import read_inventory_text
from ugro.common.text import printable
from ugro.service.context import Context
from ugro.service.node_removal import refuse_jobs_of
from ugro.service.schemas.first_contact import RenamedNode, RenameNode


async def rename_node(context: Context, request: RenameNode) -> RenamedNode:
    """Rename a node in the inventory, and in the records that are about the node itself.

    The records get the new name first and lose the old one last: a crash in between loses nothing, and the same request
    completes it.

    Raises:
        InputError: there is no such node, the name is taken or no name, a job is on the node or waits for it by name,
            or what ended there is still to be confirmed. InventoryError: the inventory cannot be edited.
    """
    old, new = request.node, request.to
    if not is_node_name(new):
        raise InputError(f"{printable(new)!r} is no name for a node", "letters, digits, '.', '_' and '-'")
    nodes, store = context.inventory.nodes, context.store
    done = old not in nodes and new in nodes  # the rest of a rename that a crash broke off, or nothing at all
    if not done:
        context.inventory.node(old)
        if new in nodes:
            raise InputError(f"{new} is the name of another node", "choose another name")
    text = read_inventory_text(context.inventory)
    after = None if done else text.renaming(old, new)

    async with store.turn():
        refuse_jobs_of(context, old, "wait for it, or end it: ugro cancel {job}")
        for (job, _), owing in store.cleanup.leftovers().items():
            if old in owing:
                raise InputError(f"{old} has still to confirm the end of {job}", "once it is reachable: ugro sweep")
        moved = await store.write(lambda: store.config.copy_node(old, new))
        if after is not None:
            text.replace(after)
        moved += await store.write(lambda: [*store.metrics.rename(old, new), *store.config.forget_node(old)])
    if done and not moved:
        context.inventory.node(old)
    return RenamedNode(node=new, before=old, inventory=str(text.path), moved=tuple(dict.fromkeys(moved)))
