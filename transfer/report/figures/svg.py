"""Primitives of all figures: the `<svg>` element, texts, numbers, and one mark per series.

A series is a checkpoint, identified by its row number. Its colour is a CSS class (`c0` .. `c7`), so
the page decides about light and dark; its shape identifies it for readers who do not see colours.
From the ninth series on, marks are hollow and lines dashed. All elements of a series are in `<g
class="row rN">`, so a page can highlight two series. Coordinates are CSS pixels of the figure.
"""

from __future__ import annotations

from html import escape

COLOURS = 8
# Shapes around (0, 0), about 9 px wide; each is a path, so all are drawn in the same way
SHAPES = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",  # disc
    "M-3.6-3.6h7.2v7.2h-7.2z",  # square
    "M0-4.8L4.6 3.4h-9.2z",  # triangle
    "M0-5L5 0L0 5L-5 0z",  # diamond
    "M0 4.8L4.6-3.4h-9.2z",  # triangle, tip down
    "M-1.5-4.5h3v3h3v3h-3v3h-3v-3h-3v-3h3z",  # plus
    "M0-5L4.8-1.5L3 4.1h-6L-4.8-1.5z",  # pentagon
    "M-4.5-2.4l2.1-2.1l2.4 2.4l2.4-2.4l2.1 2.1l-2.4 2.4l2.4 2.4l-2.1 2.1l-2.4-2.4l-2.4 2.4l-2.1-2.1"
    "l2.4-2.4z",  # cross
)


def open_svg(width: float, height: float, title: str, css: str = "") -> str:
    """Returns the opening tag; a screen reader reads `title` for the figure."""
    name = f' class="{css}"' if css else ""
    size = f"0 0 {width:g} {height:g}"
    return f'<svg{name} viewBox="{size}" role="img" aria-label="{escape(title)}">'


def tip(text: str) -> str:
    """Returns a `<title>`, which the browser shows if the pointer is over an element."""
    return f"<title>{escape(text)}</title>"


def short(value: float) -> str:
    """Formats pixels to 0.1 without a trailing 0, because a page has many thousands of them."""
    return f"{round(value, 1):g}"


def text(x: float, y: float, content: str, anchor: str = "start", css: str = "tick") -> str:
    """Returns one line of text on the baseline `y`; `anchor` is start, middle or end."""
    place = f'x="{short(x)}" y="{short(y)}"'
    side = "" if anchor == "start" else f' text-anchor="{anchor}"'
    return f'<text class="{css}" {place}{side}>{escape(content)}</text>'


def style_of(series: int) -> str:
    """Returns the CSS classes of a series' colour."""
    return f"c{series % COLOURS}" + (" again" if series >= COLOURS else "")


def mark(
    series: int, x: float, y: float, title: str = "", size: float = 1.0, css: str = "dot"
) -> str:
    """Returns the series' shape at (x, y)."""
    scale = "" if size == 1 else f" scale({size:g})"
    place = f"translate({short(x)} {short(y)})"
    head = f'<path class="{css} {style_of(series)}" transform="{place}{scale}"'
    shape = f'{head} d="{SHAPES[series % COLOURS]}"'
    return f"{shape}>{tip(title)}</path>" if title else f"{shape}/>"


def group(series: int, parts: str) -> str:
    """Returns the parts of a series as one element."""
    return f'<g class="row r{series}">{parts}</g>'


def key(series: int) -> str:
    """Returns only the series' mark, for a legend or a table; screen readers ignore it."""
    return f'<svg class="key" viewBox="-6 -6 12 12" aria-hidden="true">{mark(series, 0, 0)}</svg>'


def shorten(label: str, length: int) -> str:
    """Shortens a label to at most `length` characters."""
    return label if len(label) <= length else label[: length - 1] + "…"


def number(value: float) -> str:
    """Returns a tick's label: 24000 as 24k, 0.5 as 0.5."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= 10 * size or (abs(value) >= size and value % size == 0):
            return f"{value / size:g}{unit}"
    return f"{value:g}"
