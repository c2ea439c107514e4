"""The documentation, and what generates a part of it: see `docs/generate`."""
