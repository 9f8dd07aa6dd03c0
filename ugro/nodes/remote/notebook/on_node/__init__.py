"""Starts a Jupyter server, and prints its runtime files."""
