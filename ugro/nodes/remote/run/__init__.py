"""The part of a run on one node: its start, its files, its end."""
