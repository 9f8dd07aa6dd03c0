"""Runs a command, and beside it the script that notices when its client is gone."""
