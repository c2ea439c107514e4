"""Weights of a detector: what training starts from, what a file holds, what is scored."""
