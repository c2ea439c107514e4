"""Checkpoints x tasks x trials: plan and launch."""
