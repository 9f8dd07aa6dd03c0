"""The control plane: what should run where, and what the nodes say of it."""
