"""Figures as hand-made SVG. Each function takes numbers and returns the text of an `<svg>`.

No figure needs a script, a library or a file.

`svg` has the primitives, `axes` the frame of a plot; each other module is one kind of figure.
"""
