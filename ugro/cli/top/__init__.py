"""`ugro top`: the cluster in a terminal, live."""
