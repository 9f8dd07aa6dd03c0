"""Reads the stack traces of ranks."""
