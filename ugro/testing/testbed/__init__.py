"""Three hosts on one machine: network, PID and mount namespaces, a user and a real OpenSSH server in each."""

from ugro.testing.testbed.bed import Testbed
from ugro.testing.testbed.errors import TestbedError
from ugro.testing.testbed.hosts import Host
from ugro.testing.testbed.machine import HostProcess, ProcessView

__all__ = ["Host", "HostProcess", "ProcessView", "Testbed", "TestbedError"]
