"""Images in, masked and augmented views out."""
