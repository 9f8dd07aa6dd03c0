"""Checkpoints on a node: found, brought here, asked for."""
