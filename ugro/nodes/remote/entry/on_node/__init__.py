"""Writes what a terminal begins with."""
