"""Frozen features of a backbone: how they are extracted, kept on disk, and judged.

Every protocol that trains no network works on them; their number formats are in `formats`.
"""
