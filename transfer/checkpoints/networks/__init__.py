"""Which tensors each backbone has, and networks rebuilt as other projects compute them."""
