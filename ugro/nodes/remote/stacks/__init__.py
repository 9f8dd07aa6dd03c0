"""The stack traces of the ranks of a run."""
