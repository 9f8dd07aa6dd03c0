"""Reads the logs of a run."""
