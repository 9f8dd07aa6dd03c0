"""Notes the master that a node belongs to."""
