"""Puts the code of a job in its place."""
