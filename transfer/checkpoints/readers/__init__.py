"""File containers: bytes in, a `RawFile` of plain mappings out. Nothing here knows key names."""
