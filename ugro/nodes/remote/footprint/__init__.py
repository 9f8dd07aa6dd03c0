"""What UGRO has left on a node."""
