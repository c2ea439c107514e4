"""The commands: each parses, calls and prints.

A package, so that no installed top-level `tools`, such as Detectron2's, hides it.
"""
