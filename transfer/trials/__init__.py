"""The interface of a transfer task, the loop over its trials, and checks of existing folders."""
