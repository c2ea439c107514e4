"""Pictures of what the method does: views and masks, and the spread of features over training."""
