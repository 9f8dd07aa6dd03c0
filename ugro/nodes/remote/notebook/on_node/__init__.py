"""Starts a Jupyter server, and prints what it says of itself."""
