"""The data of a record: its field `data` as fingerprints, and how the data of two runs differ.

Records of older versions do not have this field: their data is unknown.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from pretrain.data.fingerprint import Fingerprint, difference, read_fingerprint

SPLITS = {"train": "training", "test": "test"}


def known_data(content: Any) -> dict[str, Fingerprint]:
    """Returns the splits in a record's field `data`, or in a trial's data.json; {} if unknown."""
    if not isinstance(content, Mapping):
        return {}
    found = {split: read_fingerprint(content.get(split)) for split in SPLITS}
    return {split: known for split, known in found.items() if known is not None}


def data_key(record: Mapping[str, Any]) -> str:
    """Returns a sha256 that identifies a record's training and test data, or "" if unknown."""
    known = known_data(record.get("data"))
    if not known:
        return ""
    return hashlib.sha256(" ".join(each.sha256 for each in known.values()).encode()).hexdigest()


def how_they_differ(
    one: Mapping[str, Fingerprint],
    other: Mapping[str, Fingerprint],
    sides: tuple[str, str] = ("then", "now"),
) -> str:
    """Returns a phrase that names the splits with different data and both counts; "" if none.

    Args:
        sides: names of `one` and `other` in the phrase.
    """
    both = [split for split in SPLITS if split in one and split in other]
    told = {split: difference(one[split], other[split], sides) for split in both}
    return "; ".join(f"the {SPLITS[split]} data ({text})" for split, text in told.items() if text)
