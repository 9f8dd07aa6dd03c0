"""How a command reaches a node: SSH and this machine itself, behind one interface."""

from ugro.nodes.transport.base import Outcome, Output, Transport
from ugro.nodes.transport.local import LocalTransport
from ugro.nodes.transport.ssh import SshTransport

__all__ = ["LocalTransport", "Outcome", "Output", "SshTransport", "Transport"]
