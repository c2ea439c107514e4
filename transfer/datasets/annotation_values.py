"""Numbers and ids of annotation files, read from whatever type a tool wrote them in.

Values of a parsed JSON file become floats, and ids int or str. Numbers written as text are read as
numbers, ids may be whole numbers (7, 7.0) or text; each oddity is counted in the reader's Findings,
so that it is said once.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Sequence
from typing import Any

from pretrain.common.findings import Findings
from pretrain.common.printable import printable

TEXT = "numbers are written as text; they were read as numbers"
NOT_NUMBER = "values are not finite numbers"
OTHER_TYPE = "ids are numbers in one list and text in another; they were matched by their digits"
SHOWN_CHARACTERS = 60
EXACT = 2**53  # whole numbers below it are the same as float

Id = int | str
MOST_ID = 10**100  # some tools number with 128 bits; no tool with a number that fills a page


def shown(value: Any) -> str:
    """Returns the value as JSON has it, text in quotes; a long one is cut."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (RecursionError, ValueError):
        text = f"a {type(value).__name__} that is too large to show"
    text = text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."
    return printable(text)


def as_number(value: Any) -> float | None:
    """Returns a number, or text that is one, as float; None for anything else, NaN and infinity
    too.
    """
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        if _has_underscore(value):
            return None
        try:
            number = float(value)
        except (ValueError, OverflowError):
            return None
        return number if math.isfinite(number) else None
    return None


def as_id(value: Any) -> Id | None:
    """Returns a whole number as int, text as it is; None for what cannot be an id."""
    if isinstance(value, str) and value:
        return value
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value if abs(value) < MOST_ID else None
    return None


def read_number(findings: Findings, where: str, key: str, value: Any) -> float | None:
    """Returns the value as `as_number` does. The findings note text, and refuse what is not a
    number, as "where (key value)".
    """
    kind = type(value)
    if kind is float and math.isfinite(value) or kind is int and abs(value) < EXACT:
        return float(value)
    found = as_number(value)
    if found is None:
        remedy = "correct the file"
        findings.refuse(NOT_NUMBER, f"{where} ({key} {shown(value)})", remedy)
    elif isinstance(value, str):
        findings.note(TEXT, f"{where} ({key} {shown(value)})")
    return found


def read_numbers(
    findings: Findings, where: str, key: str, values: Sequence[Any]
) -> list[float] | None:
    """Reads all numbers of a list with `read_number`; the list is named and counted once."""
    if set(map(type, values)) <= {int, float}:
        try:
            floats = list(map(float, values))
            if math.isfinite(sum(floats)):
                return floats
        except OverflowError:  # a whole number that no float holds: named below
            pass
    found = [as_number(value) for value in values]
    place = f"{where} ({key} {shown(values)})"
    if None in found:
        findings.refuse(NOT_NUMBER, place, "correct the file")
        return None
    if any(isinstance(value, str) for value in values):
        findings.note(TEXT, place)
    return [number for number in found if number is not None]


def find_id(value: Any, known: Collection[Id]) -> Id | None:
    """Returns the id of `known` that a reference means: the same one, or "7" for 7 and 7 for
    "7".
    """
    wanted = as_id(value)
    if wanted is None or wanted in known:
        return wanted
    if isinstance(wanted, int):
        other: Id = str(wanted)
    elif _has_underscore(wanted):
        return None
    else:
        try:
            other = int(wanted)
        except ValueError:
            return None
    return other if other in known else None


def _has_underscore(value: Any) -> bool:
    """Whether text has an underscore: to Python "2_7" is the number 27, to a tool it is a name."""
    return isinstance(value, str) and "_" in value
