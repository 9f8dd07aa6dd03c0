"""The Python interpreters of a node, and the environment that UGRO makes there."""
