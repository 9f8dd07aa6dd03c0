"""Tries the interpreters of a node, and makes one."""
