"""Records of all layers, by subject."""
