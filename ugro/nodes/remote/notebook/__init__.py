"""Starts Jupyter servers on nodes, and finds them there."""
