"""What a transfer task is, the loop over its trials, and whether a folder is of this run."""
