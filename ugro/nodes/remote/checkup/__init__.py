"""What could keep a training from starting, or from running for days."""
