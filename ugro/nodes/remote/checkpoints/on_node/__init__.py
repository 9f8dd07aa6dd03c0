"""Finds, sends and asks for checkpoints."""
