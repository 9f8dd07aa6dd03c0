"""Starts the Jupyter server that this python has, reachable from this machine alone, in the process of a rank.

usage: start.py [ARG of Jupyter…]
"""

from __future__ import annotations

import importlib.util
import os
import runpy
import socket
import sys

SERVERS = ("jupyterlab", "notebook", "jupyter_server")


def main() -> None:
    """Become the server."""
    runtime = os.path.join(os.path.dirname(os.environ["UGRO_CHECKPOINT_REQUEST"]), "jupyter")
    os.makedirs(runtime, 0o700, exist_ok=True)
    os.environ["JUPYTER_RUNTIME_DIR"] = runtime
    server = next((name for name in SERVERS if importlib.util.find_spec(name)), None)
    if server is None:
        sys.exit(f"ModuleNotFoundError: No module named 'jupyterlab' in {sys.executable}, notebook or jupyter_server")
    with (
        socket.socket()
    ) as free:  # Jupyter would report port 0 as it is; it tries others if this one is taken meanwhile
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}"]
    sys.argv = [server, *options, *sys.argv[1:]]
    runpy.run_module(server, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
