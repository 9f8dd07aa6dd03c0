"""Files that jobs wrote beside their code: found on their nodes, and brought to this machine."""
