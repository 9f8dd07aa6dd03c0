"""Finds where the ranks of a job meet: an address of rank 0's node that every other node reaches.

That address decides on all nodes: a rank uses the interface whose route leads there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from ugro.common.config import NodeConfig
from ugro.common.errors import NodeError, NodeRefused
from ugro.common.models.job import Job
from ugro.common.text import printable
from ugro.nodes.pool import Configs, Pool
from ugro.nodes.remote.run.process_manager import PORTS, PeerRoute, PreparedNode, prepare
from ugro.nodes.remote.setup.setup import OF_INVENTORY, JobInterpreters
from ugro.nodes.transport import Transport

LOOPBACK = "127.0.0.1"

MEET_AGAIN = (5.0, 10.0)
"""Seconds after which nodes are asked again that get no answer from where the ranks would meet: once is no proof."""

MOST_ADDRESSES = 4
"""So many addresses of rank 0's node are tried: each one that gives no answer takes some seconds."""


class NoAnswer(NodeRefused):
    """A node got no answer from where the ranks would meet: a firewall, or a cable that was out for a moment."""


@dataclass(frozen=True)
class Meeting:
    """The address and the port of rank 0, and how each node reaches it, or why it does not.

    The address is empty if rank 0's own node failed.
    """

    ways: Mapping[str, PeerRoute | NodeError]
    address: str = ""
    port: int = 0

    @property
    def found(self) -> bool:
        """Whether every node gets there."""
        return not any(isinstance(way, NodeError) for way in self.ways.values())

    @property
    def unanswered(self) -> bool:
        """Whether a node got no answer, so that asking again may help."""
        return any(isinstance(way, NoAnswer) for way in self.ways.values())

    def interfaces(self) -> dict[str, str | None]:
        """The interface that each node uses.

        Raises:
            NodeError: a node does not get there; the first one by node rank.
        """
        found = {}
        for node, way in self.ways.items():
            if isinstance(way, NodeError):
                raise way
            found[node] = way.interface
        return found


async def meet(
    pool: Pool, job: Job, again: Sequence[float] = (), interpreters: JobInterpreters = OF_INVENTORY
) -> Meeting:
    """See that every node of a job can start its part, and find where its ranks meet, unless its placement says that.

    Nothing is started. Nodes that get no answer are asked `again` after so many seconds. `interpreters` run the job.
    """
    assert job.placement
    address, port = job.placement.master_addr, job.placement.master_port
    known = (address, port) if address and port else None
    for pause in again:
        meeting = await find_meeting(
            pool, job.nodes, _port_range(job), known, job.node_configs, job.launcher, interpreters
        )
        if not meeting.unanswered:
            return meeting
        await asyncio.sleep(pause)
    return await find_meeting(pool, job.nodes, _port_range(job), known, job.node_configs, job.launcher, interpreters)


def _port_range(job: Job) -> tuple[int, int]:
    """Jobs begin their search at different ports, so that two launches at once do not pick the same one."""
    first, last = PORTS
    number = int(job.id.rpartition("-")[2], 16)  # job-012 and check-1a2b3c4d alike
    return first + number * 7 % ((last - first) // 2), last


async def find_meeting(
    pool: Pool,
    nodes: Sequence[str],
    ports: tuple[int, int],
    known: tuple[str, int] | None = None,
    configs: Configs | None = None,
    launcher: str = "torchrun",
    interpreters: JobInterpreters = OF_INVENTORY,
) -> Meeting:
    """Ask rank 0's node for its addresses, and the others which of them they reach. Nothing is started.

    `known` is where the ranks meet already, if that is settled; `configs` are nodes as a run was started with them,
    `interpreters` what runs it where that is not what they say.
    """
    first, others = nodes[0], nodes[1:]
    reached = {node: pool.transport(configs[node]) if configs and node in configs else pool[node] for node in nodes}
    # What it uses towards the others they may reach; and so may they the address where we reached it, if it is its own.
    peers = [_reach(reached[node]) for node in (*others, first)] if others else [LOOPBACK]

    async def ask_first(transport: Transport) -> PreparedNode:
        unique = list(dict.fromkeys(peers))
        return await prepare(transport, unique, ports=ports, launcher=launcher, interpreters=interpreters)

    host = (await pool.each([first], ask_first, configs=configs))[first]
    if isinstance(host, NodeError):
        return Meeting({first: host})
    address, port = known or ("", host.port or 0)
    config = reached[first].node
    if refusal := mistake(config, host, gang=bool(others)):
        return Meeting({first: refusal})
    likely, unlikely = ([_at(address, host)], []) if known else candidates(config, host, gang=bool(others))

    async def meet_at(places: Sequence[PeerRoute]) -> Meeting:
        async def ask(transport: Transport) -> PreparedNode:
            knock = None if known else port  # rank 0 may listen there by now, and wants no strangers
            addresses = [place.address for place in places]
            return await prepare(transport, addresses, knock=knock, launcher=launcher, interpreters=interpreters)

        answers = await pool.each(others, ask, configs=configs)
        return settle(config, host, places, port, {node: (reached[node].node, said) for node, said in answers.items()})

    meeting = await meet_at(likely[:MOST_ADDRESSES])
    if meeting.found or not unlikely:
        return meeting
    other = await meet_at(unlikely[:MOST_ADDRESSES])
    return other if other.found else meeting


def _reach(transport: Transport) -> str:
    """An address at which a node may be reached: what the inventory says, else where this machine reached it."""
    return transport.node.train_address or transport.peer_address or transport.node.address


def mistake(config: NodeConfig, said: PreparedNode, gang: bool) -> NodeRefused | None:
    """Return an error if the inventory contradicts the node about its network; None if not, or if that is unknown."""
    if not said.addresses:
        return None
    there = ", ".join(f"{printable(address)} ({printable(name)})" for address, name in said.addresses.items())
    hint = f"correct it in the inventory: {config.name} has {there}"
    for interface in config.interface.split(",") if config.interface else ():
        if interface not in said.addresses.values():
            return NodeRefused(config.name, f"its 'interface' {interface} is not there, or has no address", hint)
    if gang and config.train_address and said.own not in said.addresses and not _is_loopback(said.own or ""):
        stands = f", which is {printable(said.own)} there," if said.own and said.own != config.train_address else ""
        return NodeRefused(
            config.name, f"its 'train_address' {config.train_address}{stands} is none of its addresses", hint
        )
    return None


def candidates(config: NodeConfig, host: PreparedNode, gang: bool) -> tuple[list[PeerRoute], list[PeerRoute]]:
    """The addresses at which others could meet rank 0's node: the likely ones, and those that are left.

    What the inventory says decides. Otherwise likely is what it uses itself towards the other nodes.
    """
    if gang and config.train_address:
        return [_at(host.own or config.train_address, host)], []
    if gang and config.interface and host.addresses:
        named = [_at(address, host) for address, name in host.addresses.items() if name in config.interface.split(",")]
        return sorted(named, key=lambda way: _is_local(way.address)), []
    used = {way.address: way for way in host.ways}
    rest = [_at(address, host) for address in host.addresses if address not in used and not _is_local(address)]
    return sorted(used.values(), key=lambda way: _is_local(way.address)), rest if gang else []


def settle(
    config: NodeConfig,
    host: PreparedNode,
    places: Sequence[PeerRoute],
    port: int,
    others: Mapping[str, tuple[NodeConfig, PreparedNode | NodeError]],
) -> Meeting:
    """The first of the places that all other nodes reach; where there is none, who does not reach the likeliest one."""
    tried: list[Meeting] = []
    for place in places:
        ways: dict[str, PeerRoute | NodeError] = {config.name: _over(config, place)}
        if others and _is_link_local(place.address):
            problem = f"its address {printable(place.address)} is link-local, and none without an interface's name"
            ways[config.name] = NodeRefused(config.name, problem, _hint(config.name))
        for node, (other, said) in others.items():
            ways[node] = said if isinstance(said, NodeError) else _way(other, said, config.name, host, place)
        tried.append(Meeting(ways, place.address, port))
        if tried[-1].found:
            return tried[-1]
    if tried:
        return tried[0]
    why = "; ".join(f"no way to {printable(peer)}: {printable(error)}" for peer, error in host.errors.items())
    refusal = NodeRefused(config.name, why or "it has no address for the other nodes", _hint(config.name))
    return Meeting({config.name: refusal})


def _way(
    config: NodeConfig, said: PreparedNode, first: str, host: PreparedNode, place: PeerRoute
) -> PeerRoute | NodeError:
    """How a node gets to a place of the node `first`, or why it does not."""
    if refusal := mistake(config, said, gang=True):
        return refusal
    node, where = config.name, f"{printable(place.address)}, where the ranks would meet on {first},"
    apart = not said.network or said.network != host.network  # else both share one network, with its loopback
    if apart and _is_loopback(place.address):
        return NodeRefused(node, f"{where} means {node} itself there", _hint(first))
    if error := said.errors.get(place.address):
        problem = f"no way to {printable(place.address)}, where the ranks would meet on {first}: {printable(error)}"
        return NoAnswer(node, problem, f"open the ports of {first} to {node}, or {_hint(first)}")
    way = next((way for way in said.ways if way.peer == place.address), None)
    if way is None:
        return NodeRefused(node, f"it does not report its route to {printable(place.address)}")
    if apart and way.address == place.address:
        return NodeRefused(
            node, f"{where} is an address of {node} too ({printable(way.interface or '?')})", _hint(first)
        )
    if config.train_address and said.own:
        way = _at(said.own, said).model_copy(update={"peer": place.address})
    way = _over(config, way)
    used = [address for address, name in said.addresses.items() if name in (way.interface or "").split(",")]
    if apart and all(map(_is_loopback, used or [way.address])):
        problem = f"it would train over {printable(way.interface or way.address)}, which no other node reaches"
        return NodeRefused(node, problem, f"correct 'interface' or 'train_address' of {node} in the inventory")
    return way


def _at(address: str, said: PreparedNode) -> PeerRoute:
    """An address of a node itself."""
    return PeerRoute(peer=address, address=address, interface=said.addresses.get(address))


def _over(config: NodeConfig, way: PeerRoute) -> PeerRoute:
    """A way over the interface that the inventory names, if it names one."""
    return way.model_copy(update={"interface": config.interface}) if config.interface else way


def _hint(node: str) -> str:
    return f"set 'train_address' of {node} in the inventory to an address at which the other nodes reach it"


def _is_local(address: str) -> bool:
    """Whether an address is unlikely to be where other machines reach a node."""
    return _is_loopback(address) or _is_link_local(address)


def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def _is_link_local(address: str) -> bool:
    """Whether an IPv6 address means nothing without the name that an interface has on one machine."""
    try:
        found = ip_address(address)
    except ValueError:
        return False
    return found.version == 6 and found.is_link_local
