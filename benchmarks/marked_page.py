"""Replaces the part of a page that a command writes, which is between two marks."""

from __future__ import annotations

from collections.abc import Sequence

from pretrain.common.errors import InputError

END = "<!-- end -->"


def begin_of(module: str) -> str:
    """Returns the line before the part that `python -m MODULE` writes."""
    return f"<!-- written by python -m {module} -->"


def replaced(text: str, module: str, lines: Sequence[str]) -> str:
    """Returns the page with the lines between the marks of `python -m MODULE`; see
    `replaced_after`.
    """
    return replaced_after(text, begin_of(module), lines)


def replaced_after(text: str, mark: str, lines: Sequence[str]) -> str:
    """Returns the page with the lines between a mark and `END`. Raises InputError for a page
    without them.

    Args:
        mark: the line before the lines.
    """
    before, begin, rest = text.partition(mark)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise InputError(
            f"the page lacks the lines '{mark}' and '{END}'; the table goes between them"
        )
    return "\n".join([before + begin, *lines, END + after])
