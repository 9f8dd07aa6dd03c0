"""Tries connections between nodes."""
