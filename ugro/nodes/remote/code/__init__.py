"""The code of a job as it arrives on a node; its client is `ugro.nodes.code_sync`."""
