"""Looks at a node just before a launch, with the very python that will train. Prints one JSON object.

usage: prepare.py PEER_ADDRESS [PORT_FROM PORT_TO]
The interface is the one whose route leads to the peer; with a port range, the first free port of it is found.
"""

from __future__ import annotations  # workers may have a Python older than 3.9

import contextlib
import fcntl
import json
import os
import re
import socket
import struct
import sys
from importlib.util import find_spec

SIOCGIFADDR = 0x8915


def source_address(peer: str) -> str:
    """The address this node uses towards a peer. Connecting a UDP socket sends nothing."""
    family, kind, _, _, where = socket.getaddrinfo(peer, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        probe.connect(where)
        return str(probe.getsockname()[0])


def interface_of(address: str) -> str | None:
    """The network interface that has an address, or None."""
    if ":" in address:
        wanted = socket.inet_pton(socket.AF_INET6, address.partition("%")[0]).hex()
        with open("/proc/net/if_inet6") as table:
            return next((line.split()[5] for line in table if line.split()[0] == wanted), None)
    if address.startswith("127."):
        return "lo"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                packed = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:
                continue
            if socket.inet_ntoa(packed[20:24]) == address:
                return name
    return None


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


def main() -> None:
    peer, *ports = sys.argv[1:]
    seen: dict[str, object] = {
        "python": sys.version.split()[0],
        "torch": None,
        "address": None,
        "interface": None,
        "port": None,
    }
    with contextlib.suppress(ImportError, ValueError):
        seen["torch"] = torch_version()
    try:
        seen["address"] = address = source_address(peer)
        seen["interface"] = interface_of(address)
    except OSError as error:
        seen["route_error"] = str(error)
    if ports:
        seen["port"] = free_port(int(ports[0]), int(ports[1]))
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
