"""Enters a node: with a command in a job's directory, with a terminal, or with a connection to one of its ports."""
