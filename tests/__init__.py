"""The tests, in the packages' folders mirrored.

A package, so that no installed top-level `tests` hides it.
"""
