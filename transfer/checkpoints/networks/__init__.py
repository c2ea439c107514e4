"""Which tensors each backbone has, and the networks of those that are not ResNets."""
