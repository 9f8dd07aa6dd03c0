"""Helpers of tests and benchmarks: simulated nodes, filled-in records, and `ugro` as it is typed.

Nothing of ugro imports it.
"""
