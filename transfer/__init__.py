"""The transfer benchmark: checkpoints in, result records and one report out."""
