"""Adds a machine to the cluster: host key, key login, Python, check, links, inventory. Each step may be repeated.

It acts in the process of the user: keys, known_hosts and the inventory are the user's, and a password is typed there.
"""

from __future__ import annotations

import ipaddress

from ugro.common.config import Inventory, NodeConfig
from ugro.common.errors import HostKeyChanged, InputError, NodeError
from ugro.common.fields import is_node_name
from ugro.common.inventory_edit import InventoryText, node_line, read_inventory_text
from ugro.common.inventory_file import parse_with_node
from ugro.common.text import printable
from ugro.nodes.bootstrap.own_key import find_key
from ugro.nodes.transport.ssh_config import find_route
from ugro.service.contact_steps import STEPS, Contact, Fields, parts_of
from ugro.service.context import Context
from ugro.service.inventory import own_addresses, parse_host
from ugro.service.plan import Fingerprint, Question, consented
from ugro.service.schemas.first_contact import (
    AddedNode,
    AddNode,
    AddNodePlan,
    PlanAddNode,
)
from ugro.service.schemas.notices import StepDocument, StepEnded
from ugro.service.trust import Seen, look_at

# --- the plan --------------------------------------------------------------------------------------------------------


async def plan_add(context: Context, request: PlanAddNode) -> AddNodePlan:
    """Plan to add a machine: find its name, its host keys, and the key to log in with. Nothing is changed.

    Raises:
        InputError: the target makes no sense, the name is taken, the machine is in the inventory under another name.
        HostKeyChanged: other host keys are on record. NodeError: it is unreachable, or no key of the user is usable.
    """
    text = read_inventory_text(context.inventory)
    host = parse_host(request.target)
    fields: Fields = {"address": host.address}
    fields |= {"user": host.user} if host.user else {}
    fields |= {"port": port} if (port := request.port or host.port) else {}
    fields |= {"identity_file": request.identity_file} if request.identity_file else {}
    wanted = request.name or (host.name if "=" in request.target else None)
    if wanted and not is_node_name(wanted):
        raise InputError(f"{printable(wanted)!r} is no name for a node", "letters, digits, '.', '_' and '-'")
    name, config = await _named(context.inventory, text, wanted, fields)
    known = name in context.inventory.nodes
    target = (await find_route(config))[-1]
    seen = await look_at(config)
    again = f"ugro node add {request.target}"
    seen.refuse_change(f"if it was reinstalled: ssh-keygen -R '{seen.known_as}' -f {seen.path}; then: {again}")
    key = await find_key(config, target)
    return AddNodePlan(
        node=name,
        account=printable(f"{target.user}@{target.host}"),
        address=host.address,
        user=host.user,
        port=port,
        identity_file=request.identity_file,
        inventory=str(text.path),
        entry=node_line(name, _fields_of(config) if known else fields),
        known=known,
        keys=seen.documents,
        path=str(seen.path),
        trusted=seen.trusted,
        key=key.path if key else None,
        makes_key=key is None,
        questions=() if seen.trusted else (_question(name, seen, again),),
        fingerprint=Fingerprint.of(parts_of(text, seen)),
    )


def _question(name: str, seen: Seen, again: str) -> Question:
    return Question(
        id="trust",
        text="Does the machine itself report the same, and do you trust it?",
        refusal=f"the host key of {name} is not known; confirmation needed, but stdin is not a terminal",
        hint=f"name the right key: {again} --fingerprint {next(iter(seen.offered))}",
        untouched=f"{name} is not trusted; nothing was recorded, and nothing was sent to it",
    )


async def _named(
    inventory: Inventory, text: InventoryText, wanted: str | None, fields: Fields
) -> tuple[str, NodeConfig]:
    """Return the name of the node and its description, as the inventory has it or will have it.

    Raises:
        InputError: the name is taken, the machine has another one, or the file cannot be edited.
    """
    address, user = str(fields["address"]), fields.get("user")
    name = wanted or _free_name(address, inventory)
    known = await _known_as(inventory, _drafted(text, "another" if name in inventory.nodes else name, fields))
    if known is None:
        if name in inventory.nodes:
            words = f"{name} is in the inventory already, with the address {inventory.nodes[name].address}"
            raise InputError(words, "choose another name: --name NAME")
        text.adding(name, fields)
        return name, _drafted(text, name, fields)
    there = inventory.nodes[known]
    if there.local:
        raise InputError(f"{address} is this machine, which is in the inventory as {known}", "there is nothing to add")
    if wanted and wanted != known:
        raise InputError(
            f"{address} is in the inventory as {known}", f"to rename it: ugro node rename {known} {wanted}"
        )
    if user and there.user and user != there.user:
        words = f"{address} is in the inventory as {known}, with user {there.user}"
        raise InputError(words, f"correct `user` in {text.path}, then: ugro node add {there.user}@{address}")
    return known, there


def _drafted(text: InventoryText, name: str, fields: Fields) -> NodeConfig:
    """A node as it will be described: its own keys, and the defaults of the inventory."""
    return parse_with_node(text.plain, text.path, name, fields).nodes[name]


async def _known_as(inventory: Inventory, draft: NodeConfig) -> str | None:
    """Return the name of the node that is reached at the same address and port, whatever each is called."""
    place = await _place(draft)
    for name, config in inventory.nodes.items():
        if config.local:
            if place[1] == 22 and place[0] in {config.address, *own_addresses()}:
                return name
            continue
        try:
            if await _place(config) == place:
                return name
        except NodeError:  # its ssh_config is unusable, so that it cannot be compared
            continue
    return None


async def _place(config: NodeConfig) -> tuple[str, int]:
    target = (await find_route(config))[-1]
    return target.host.lower(), target.port


def _free_name(address: str, inventory: Inventory) -> str:
    """The first part of a host name; for an IP address the next `gpuN`."""
    try:
        ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        name = address.partition(".")[0]
        return name if is_node_name(name) else address
    numbers = [int(name[3:]) for name in inventory.nodes if name.startswith("gpu") and name[3:].isdecimal()]
    return f"gpu{max(numbers, default=0) + 1}"


def _fields_of(node: NodeConfig | AddNodePlan) -> Fields:
    """The keys of a node's line."""
    given = {"address": node.address, "user": node.user, "port": node.port, "identity_file": node.identity_file}
    return {key: value for key, value in given.items() if value is not None}


async def add(context: Context, request: AddNode) -> AddedNode:
    """Carry out the steps. What a step did stays when a later one fails, and is not done again the next time.

    Raises:
        PlanChanged: the machine shows other host keys by now, or the inventory was changed.
        HostKeyChanged: no key has the fingerprint that was agreed to, or another machine answers the second connection.
        InputError, NodeError: what a step met. Declined: the answer is no.
    """
    plan = request.plan
    if request.fingerprint is None:
        consented(plan.questions, request.answers)
    elif request.fingerprint not in {key.fingerprint for key in plan.keys}:
        words = f"no key it offers has the fingerprint {printable(request.fingerprint)}"
        raise HostKeyChanged(plan.node, words, "nothing was recorded, and nothing was sent to it")
    text = read_inventory_text(context.inventory)
    config = context.inventory.node(plan.node) if plan.known else _drafted(text, plan.node, _fields_of(plan))
    contact = Contact(context, request, config, _fields_of(plan), text)
    ended = []
    for step in STEPS:
        state, words = await step.do(contact)
        ended.append(StepDocument(step=step.name, state=state, text=words))
        context.tell(StepEnded(node=contact.name, step=ended[-1]))
    return AddedNode(
        node=contact.name,
        inventory=str(text.path),
        entry=node_line(contact.name, contact.fields),
        steps=tuple(ended),
        findings=tuple(contact.findings),
    )
