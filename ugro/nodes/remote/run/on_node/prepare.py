"""Checks a node just before a launch, with the very python that will train. Answers with one object.

usage: prepare.py REQUEST, a JSON object with
  peers      addresses; prints of each over which address and interface of this node the way to it leads
  knock      a port, or null; a peer where even that port gives no answer counts as out of reach
  own        an address that this node should have, or null; the answer has what it stands for here
  ports      [FROM, TO], or null; the first free port of them is found
  modules    names of top-level modules; the answer has those that are not there
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import struct
import sys
from importlib.util import find_spec

from ugro.nodes.remote.on_node.answer import answer

KNOCK_SECONDS = 3.0
"""How long an answer may take: a SYN that was lost is sent again after one second."""

RTM_GETADDR, DUMP_REQUEST, NLMSG_DONE, NLMSG_ERROR = 22, 0x301, 3, 2
IFA_ADDRESS, IFA_LOCAL = 1, 2


def numeric(address: str) -> str:
    """Resolve an address or a name on this node; without the scope of a link-local one."""
    return str(socket.getaddrinfo(address, 9, type=socket.SOCK_DGRAM)[0][4][0]).partition("%")[0]


def source_address(peer: str) -> str:
    """The address this node uses towards a peer. Connecting a UDP socket sends nothing."""
    family, kind, _, _, where = socket.getaddrinfo(peer, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        probe.connect(where)
        return str(probe.getsockname()[0]).partition("%")[0]


def own_addresses() -> dict[str, str]:
    """Return every address of this node, and its interface; the kernel lists all of them over netlink only."""
    found: dict[str, str] = {}
    names = dict(socket.if_nameindex())
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        kernel.send(struct.pack("=IHHIIB3xI", 24, RTM_GETADDR, DUMP_REQUEST, 1, 0, socket.AF_UNSPEC, 0))
        while True:
            answer = kernel.recv(1 << 16)
            while answer:
                length, kind = struct.unpack_from("=IH", answer)
                if kind in (NLMSG_DONE, NLMSG_ERROR):
                    return found
                family, index = struct.unpack_from("=B3xI", answer, 16)
                parts = attributes(answer[24:length])
                packed = parts.get(IFA_LOCAL) or parts.get(IFA_ADDRESS)  # of a tunnel the latter is the other end
                if packed and index in names:
                    found[socket.inet_ntop(family, packed)] = names[index]
                answer = answer[(length + 3) & ~3 :]


def attributes(data: bytes) -> dict[int, bytes]:
    """The attributes of a netlink message, by their type."""
    found = {}
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        found[kind] = data[4:length]
        data = data[(max(length, 4) + 3) & ~3 :]
    return found


def knock(peer: str, port: int) -> None:
    """See that packets come back from a peer: a refusal does as well as an answer.

    Raises:
        OSError: none does.
    """
    with contextlib.suppress(ConnectionError), socket.create_connection((peer, port), KNOCK_SECONDS):
        pass


def ways_to(peers: list[str], port: int | None, addresses: dict[str, str]) -> tuple[list[object], dict[str, str]]:
    """How this node reaches each peer; and of those that it does not reach, why."""
    ways: list[object] = []
    errors: dict[str, str] = {}
    for peer in peers:
        try:
            address = source_address(peer)
            if port is not None:
                knock(peer, port)
            interface = addresses.get(address) or ("lo" if address.startswith("127.") else None)
            ways.append({"peer": peer, "address": address, "interface": interface})
        except OSError as error:
            late = isinstance(error, socket.timeout)  # which has no words of its own
            errors[peer] = f"no answer from its port {port}" if late else error.strerror or str(error)
    return ways, errors


def network() -> str:
    """Names the network stack: nodes that name the same one are one machine on it, and share its loopback."""
    with contextlib.suppress(OSError), open("/proc/sys/kernel/random/boot_id") as boot:
        return f"{boot.read().strip()} {os.readlink('/proc/self/ns/net')}"
    return ""


def free_port(first: int, last: int) -> int | None:
    """The first port that nothing listens on, on any address of this node."""
    for port in range(first, last + 1):
        with socket.socket(socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if socket.has_dualstack_ipv6():
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    return None


def torch_version() -> str | None:
    """The version of torch, which would take seconds to import; None: it is not there."""
    spec = find_spec("torch")
    if spec is None or not spec.origin:
        return None
    with contextlib.suppress(OSError), open(os.path.join(os.path.dirname(spec.origin), "version.py")) as file:
        told = re.search(r"^__version__ = ['\"](.+)['\"]", file.read(), re.MULTILINE)
        return told.group(1) if told else "unknown"
    return "unknown"


def is_there(module: str) -> bool:
    """Whether a top-level module can be found."""
    with contextlib.suppress(ImportError, ValueError):
        return find_spec(module) is not None
    return False


def main() -> None:
    asked = json.loads(sys.argv[1])
    addresses = {}
    with contextlib.suppress(OSError):
        addresses = own_addresses()
    ways, errors = ways_to(asked["peers"], asked["knock"], addresses)
    seen: dict[str, object] = {
        "python": sys.version.split()[0],
        "torch": None,
        "missing": [name for name in asked["modules"] if name != "torch" and not is_there(name)],
        "network": network(),
        "addresses": addresses,
        "own": None,
        "ways": ways,
        "errors": errors,
        "port": free_port(*asked["ports"]) if asked["ports"] else None,
    }
    with contextlib.suppress(ImportError, ValueError):
        seen["torch"] = torch_version()
    with contextlib.suppress(OSError):
        seen["own"] = numeric(asked["own"]) if asked["own"] else None
    answer("prepare", seen)


if __name__ == "__main__":
    main()
