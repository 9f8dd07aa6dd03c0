"""Runs a command beside what tells that its client is gone."""
