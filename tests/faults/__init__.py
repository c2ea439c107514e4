"""Damaged and hostile input for every reader: few cases in `make test`, many by `test-faults`."""
