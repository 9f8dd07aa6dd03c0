"""Runs a command, and ends it once its client is gone."""
