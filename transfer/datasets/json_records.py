"""Reads a JSON file without holding all of it: a long list goes to its reader record by record.

A file of COCO's size (450 MB) is three gigabytes of Python objects when it is parsed at once. Here
a window of its text moves over it. Whatever is not as expected raises a ValueError, and the caller
parses the file as a whole, which gives the same values and the parser's own error messages.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

CHARACTERS = 1 << 22  # length of a window
_SPACE = re.compile(r"[ \t\n\r]*")

Packer = Callable[[Iterator[Any]], Any]


def read_object(path: Path, packers: Mapping[str, Packer]) -> dict[str, Any]:
    """Returns the JSON object of a file; the lists under some of its keys as their packers return
    them.

    Args:
        packers: by key, what takes the list's elements, one at a time, and returns their container.

    Raises:
        ValueError: the file is not one JSON object, is damaged, or repeats a key.
        OSError: the file cannot be read.
    """
    with path.open("rb") as binary:
        encoding = json.detect_encoding(binary.read(4))
    with path.open(encoding=encoding, errors="surrogatepass", newline="") as file:
        window, found = _Window(file), dict[str, Any]()
        window.expect("{")
        follows = "," if window.peek() != "}" else window.take()
        while follows == ",":
            key = window.value()
            if not isinstance(key, str) or key in found:
                raise ValueError("a key is not text, or occurs twice")
            window.expect(":")
            packed = key in packers and window.peek() == "["
            found[key] = packers[key](window.elements()) if packed else window.value()
            follows = window.take()
        if follows != "}" or window.peek():
            raise ValueError("the object does not end with the file")
    return found


class _Window:
    """A part of a file's text that moves on, and a place in it."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._decode = json.JSONDecoder().raw_decode
        self._text, self._place, self._at_end = "", 0, False

    def peek(self) -> str:
        """Returns the next character behind white space; "" at the end of the file."""
        while True:
            self._place = _SPACE.match(self._text, self._place).end()  # type: ignore[union-attr]
            if self._place < len(self._text) or self._at_end:
                return self._text[self._place : self._place + 1]
            self._fill()

    def take(self) -> str:
        """Moves over that character, and returns it."""
        found = self.peek()
        self._place += 1
        return found

    def expect(self, character: str) -> None:
        """Moves over that character, which is known."""
        if self.take() != character:
            raise ValueError(f"{character} is missing")

    def value(self) -> Any:
        """Moves over a value, and returns it."""
        self.peek()
        while True:
            try:
                found, end = self._decode(self._text, self._place)
            except ValueError:
                if self._at_end:
                    raise ValueError("a value is damaged") from None
            else:
                # A number that ends with the window may go on behind it.
                if end < len(self._text) or self._at_end:
                    self._place = end
                    return found
            self._fill()

    def elements(self) -> Iterator[Any]:
        """Moves over a list, element by element."""
        self.expect("[")
        if self.peek() == "]":
            self.take()
            return
        while True:
            yield self.value()
            follows = self.take()
            if follows == "]":
                return
            if follows != ",":
                raise ValueError("a comma is missing")

    def _fill(self) -> None:
        kept = self._text[self._place :]
        # As much again as one value takes already: a long one is then scanned a few times only.
        more = self._file.read(max(CHARACTERS, len(kept)))
        self._text, self._place, self._at_end = kept + more, 0, not more
