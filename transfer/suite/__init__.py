"""Runs many checkpoints on many tasks with several trials: the plan, its checks and its launch."""
