"""Frozen features of a backbone: how they are extracted, kept on disk and evaluated.

Every protocol that does not train the network uses them; `formats` has their number formats.
"""
