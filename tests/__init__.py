"""The tests, in folders that mirror those of the packages.

This is a package, so no installed top-level `tests` can hide it.
"""
