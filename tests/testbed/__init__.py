"""Three hosts on one machine: network, PID and mount namespaces, a user and a real OpenSSH server in each."""

from .bed import Testbed
from .errors import TestbedError
from .hosts import Host
from .machine import HostProcess, Process

__all__ = ["Host", "HostProcess", "Process", "Testbed", "TestbedError"]
