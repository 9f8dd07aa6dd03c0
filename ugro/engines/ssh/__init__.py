"""Runs attempts on machines that are reached by SSH, each of them on its own."""
