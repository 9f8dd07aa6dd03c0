"""The execution layer: everything that touches a node."""
