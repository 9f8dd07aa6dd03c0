"""Files of jobs and data: listed on a node, brought from it, taken to it."""
