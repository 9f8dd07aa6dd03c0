"""What the nodes have to give to jobs, what a job needs, and which part of the cluster suits it best."""
