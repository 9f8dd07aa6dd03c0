"""The master that a node belongs to."""
