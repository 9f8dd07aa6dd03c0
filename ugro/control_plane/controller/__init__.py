"""A level-triggered tick: observe every node, take the next step for every job, start what fits."""
