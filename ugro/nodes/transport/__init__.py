"""How a command reaches a node: SSH and this machine itself, behind one interface.

`ssh` is imported by who opens a connection: asyncssh is a third of a command's start.
"""

from ugro.nodes.transport.base import Outcome, Output, Transport
from ugro.nodes.transport.local import LocalTransport

__all__ = ["LocalTransport", "Outcome", "Output", "Transport"]
