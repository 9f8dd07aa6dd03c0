"""Reads what a machine and its Python are set to."""
