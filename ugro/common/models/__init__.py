"""The records of all layers, by what they are about."""
