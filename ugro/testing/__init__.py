"""What tests and benchmarks stand on: simulated nodes, records that are filled in, and `ugro` as a person types it.

Nothing of ugro imports it.
"""
