"""One folder for each thing that is asked of a node: its client, and in `on_node/` the scripts that run there."""
