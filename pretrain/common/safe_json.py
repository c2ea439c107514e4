"""Reads JSON from unknown sources: plain values out, or a ValueError in one line.

In addition to what the parser refuses, this module refuses: nesting so deep that walking it would
exhaust the stack, integers that neither a float nor an array can hold, a key that occurs twice in
one object, and text that cannot be written again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pretrain.common.printable import shown
from pretrain.common.regular_file import MEGABYTE, read_regular

MOST_BYTES = 64 * MEGABYTE
MOST_DEPTH = 64
MOST_WHOLE = 2**63  # integers must be below it, and not below its negative


def read_json(path: str | Path, most_bytes: int = MOST_BYTES) -> Any:
    """Returns the content of a JSON file.

    Raises:
        OSError: the file cannot be read, is not a regular file, or is too large.
        ValueError: see `parse_json`.
    """
    return parse_json(read_regular(path, most_bytes))


def parse_json(content: str | bytes) -> Any:
    """Returns the values of a JSON text; bytes in UTF-8, UTF-16 or UTF-32, with or without a mark.

    Raises:
        ValueError: it is not JSON, or has something that is refused; see the module.
    """
    if isinstance(content, bytes):
        content = content.decode(json.detect_encoding(content))
    content = content.removeprefix("\ufeff")
    try:
        value = json.loads(content, parse_int=_whole, object_pairs_hook=_once)
    except RecursionError:
        raise ValueError(_too_deep()) from None
    check_depth(value)
    if "\\ud" in content or "\\uD" in content:
        json.dumps(value, ensure_ascii=False).encode()  # raises for half of a surrogate pair
    return value


def check_depth(value: Any) -> None:
    """Raises ValueError if lists and objects are nested deeper than `MOST_DEPTH`."""
    level = [value]
    for _ in range(MOST_DEPTH):
        level = [
            part for whole in level for part in _parts(whole) if isinstance(part, (dict, list))
        ]
        if not level:
            return
    raise ValueError(_too_deep())


def _parts(value: Any) -> Any:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _too_deep() -> str:
    return f"lists and objects are nested deeper than {MOST_DEPTH} levels"


def _whole(text: str) -> int:
    number = int(text) if len(text) < 21 else MOST_WHOLE
    if not -MOST_WHOLE <= number < MOST_WHOLE:
        raise ValueError(f"the whole number {shown(text)[1:-1]} has more than 64 bits")
    return number


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in found if keys.count(key) > 1)
        raise ValueError(f"the key {shown(twice)} occurs twice in one object")
    return found
