"""The protocols that score a backbone by classification: one module each, with check and score.

`protocol` says what a protocol is, `all_protocols` lists them. A new protocol is a module that ends
in its row, an entry of `all_protocols`, and its name in `defaults.READS`.
"""
