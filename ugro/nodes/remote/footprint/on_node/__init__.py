"""Shows and removes what UGRO has left."""
