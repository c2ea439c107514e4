"""Figures as hand-made SVG: numbers in, `<svg>` text out; no script, no library, no file is read.

`svg` has the primitives, `axes` the frame of a plot; each other module is one kind of figure.
"""
