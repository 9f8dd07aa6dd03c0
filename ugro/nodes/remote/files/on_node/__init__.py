"""What runs on a node to list, send and take files."""
