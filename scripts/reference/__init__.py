"""The pages of `docs/reference/`, built from the code: `make docs` writes them, `make check` compares them.

Each module builds pages as text and touches no file. What the code alone cannot say, such as a sentence about each kind
of event, stands in a table beside its builder, which raises `Incomplete` when an entry is missing or stale.
"""
