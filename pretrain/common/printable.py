"""Makes text from files safe to show: one line, cut, without characters that control a terminal.

Names in records, checkpoints and annotation files may contain anything. With an escape sequence, a
line break or a mark that changes the direction of writing, a file could fake the output of a
terminal, a table or a log. A name of megabytes would fill them.
"""

from __future__ import annotations

import hashlib
import logging
import unicodedata
from typing import Any

MOST = 200  # characters of a text
MOST_OF_VALUE = 60  # characters of a value in a message
CUT = "…"


def printable(text: object, most: int = MOST) -> str:
    """Returns a text in one line of at most `most` characters.

    Characters that do not print (control characters, line breaks, marks of direction, lone
    surrogates) are written as Python escapes. The middle of a longer text is left out, because a
    message often ends with its remedy. A printable text is not changed.
    """
    text = str(text)
    if len(text) <= most and text.isprintable():
        return text
    return _cut(_escaped(_cut(text, most)), most)


def shown(value: object, most: int = MOST_OF_VALUE) -> str:
    """Returns a value as Python writes it, in one line and cut."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # it contains an integer with thousands of digits
        text = f"a {type(value).__name__} that is too large to show"
    return printable(text, most)


def printable_tree(value: Any, most: int = MOST) -> Any:
    """Returns a copy of parsed JSON in which all texts, including keys, are printable.

    A text that is cut ends with a digest, so that different texts stay different.
    """
    if isinstance(value, str):
        return _distinct(value, most)
    if isinstance(value, dict):
        return {
            printable_tree(key, most): printable_tree(part, most) for key, part in value.items()
        }
    if isinstance(value, list):
        return [printable_tree(part, most) for part in value]
    return value


def steers(text: str) -> bool:
    """Returns whether a text has a control character, such as a line break or an escape."""
    return any(unicodedata.category(character) == "Cc" for character in text)


class PrintableFormatter(logging.Formatter):
    """Writes log messages without characters that control a terminal; line breaks are kept."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        """Returns the message with its time and level, in the formatter's format."""
        lines = record.message.split("\n")
        record.message = "\n".join(line if line.isprintable() else _escaped(line) for line in lines)
        return super().formatMessage(record)


def _distinct(text: str, most: int) -> str:
    if len(text) <= most:
        return printable(text, most)
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{printable(text, most - 9)} {digest}"


def _cut(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    tail = most // 4
    return f"{text[: most - tail - 1]}{CUT}{text[-tail:]}"


def _escaped(text: str) -> str:
    return "".join(
        (
            character
            if character.isprintable() or unicodedata.category(character) == "Zs"
            else repr(character)[1:-1]
        )
        for character in text
    )
