"""Reads file containers into a `RawFile` of plain mappings, without interpreting key names."""
