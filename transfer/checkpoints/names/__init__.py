"""Names of a trunk's tensors: the canonical ones, and those of other projects and layouts."""
