"""Values that a training writes to files by itself: TensorBoard's event files, trainer_state.json, CSV."""
