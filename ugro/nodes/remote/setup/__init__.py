"""Finds the Python of a job on nodes, and sets its environment up there."""
