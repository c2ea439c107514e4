"""The tensors of each backbone, and the networks of backbones that are not ResNets."""
