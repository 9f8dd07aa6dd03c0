"""The next attempt of a job that ended: from where, with which changes, and what its end cost."""
