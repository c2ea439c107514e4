"""Any checkpoint in, canonical backbone weights out, proven equal."""
