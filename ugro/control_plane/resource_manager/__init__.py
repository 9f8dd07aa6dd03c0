"""The nodes' capacity, the needs of a job, and the part of the cluster that suits it best."""
