"""Collects what a node says of its GPUs and itself."""
