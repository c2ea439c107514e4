"""What data a record is of: its field `data` as fingerprints, and how two runs' data differ.

Records of versions before it do not say: their data is unknown.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from pretrain.data.fingerprint import Fingerprint, difference, read_fingerprint

SPLITS = {"train": "training", "test": "test"}


def known_data(content: Any) -> dict[str, Fingerprint]:
    """The splits of a record's field `data`, or of a trial's data.json; {} if it is unknown."""
    if not isinstance(content, Mapping):
        return {}
    found = {split: read_fingerprint(content.get(split)) for split in SPLITS}
    return {split: known for split, known in found.items() if known is not None}


def data_key(record: Mapping[str, Any]) -> str:
    """Equal for records of the same training and test data: a sha256, or "" if it is unknown."""
    known = known_data(record.get("data"))
    if not known:
        return ""
    return hashlib.sha256(" ".join(each.sha256 for each in known.values()).encode()).hexdigest()


def how_they_differ(
    one: Mapping[str, Fingerprint],
    other: Mapping[str, Fingerprint],
    sides: tuple[str, str] = ("then", "now"),
) -> str:
    """Which splits are of different data, with both counts, in a phrase; "" if none is.

    Args:
        sides: what `one` and `other` are called.
    """
    both = [split for split in SPLITS if split in one and split in other]
    told = {split: difference(one[split], other[split], sides) for split in both}
    return "; ".join(f"the {SPLITS[split]} data ({text})" for split, text in told.items() if text)
