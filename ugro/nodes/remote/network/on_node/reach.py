"""Says whether a TCP connection to an address can be made from here: `reach open`, `reach refused`, or why not.

usage: reach.py ADDRESS PORT SECONDS
Refused is an answer of that machine, too; what gives none is a firewall or a wrong address.
"""

from __future__ import annotations  # workers may have a Python older than 3.9

import os
import socket
import sys


def main() -> None:
    address, port, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    try:
        with socket.create_connection((address, port), timeout=seconds):
            print("reach open")
    except ConnectionRefusedError:
        print("reach refused")
    except socket.timeout:  # noqa: UP041 - no TimeoutError before Python 3.10
        print(f"reach no answer within {seconds:g} s")
    except OSError as error:
        print("reach", os.strerror(error.errno) if error.errno else error)


if __name__ == "__main__":
    main()
