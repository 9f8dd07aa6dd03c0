"""Says whether a TCP connection to an address can be made from here. Answers `open`, `refused`, or why not.

usage: reach.py ADDRESS PORT SECONDS
Refused is an answer of that machine, too; what gives none is a firewall or a wrong address.
"""

from __future__ import annotations

import os
import socket
import sys

from ugro.nodes.remote.on_node.answer import answer


def way(address: str, port: int, seconds: float) -> str:
    try:
        with socket.create_connection((address, port), timeout=seconds):
            return "open"
    except ConnectionRefusedError:
        return "refused"
    except TimeoutError:
        return f"no answer within {seconds:g} s"
    except OSError as error:
        return os.strerror(error.errno) if error.errno else str(error)


def main() -> None:
    answer("reach", way(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))


if __name__ == "__main__":
    main()
