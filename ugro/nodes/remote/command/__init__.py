"""A command of the user on a node."""
