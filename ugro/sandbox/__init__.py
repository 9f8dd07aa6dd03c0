"""An embedded cluster: SSH nodes on loopback with simulated GPUs, for the demo and the tests."""
