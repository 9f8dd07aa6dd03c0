"""What several scripts share. It is sent in front of each script that imports it: see `ugro.nodes.remote.bundle`."""
