"""The training loop, its callbacks and the one builder."""
