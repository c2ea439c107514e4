"""The data of a run: both splits' fingerprints, and how many test images are training images too.

They are in a trial's folder from its start on (`data.json`), and in its record.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from pretrain.common.findings import warn_once
from pretrain.common.printable import printable
from pretrain.common.safe_json import read_json
from pretrain.data.fingerprint import Fingerprint
from pretrain.data.origins import Origin
from pretrain.data.shared_images import SharedImages, find_shared, not_compared
from transfer.results.data_of_records import known_data


class OpenedSet(Protocol):
    """A split, as far as its data goes; see `transfer.trials.task.ImageSet`."""

    @property
    def name(self) -> str: ...

    @property
    def origin(self) -> Origin: ...

    @property
    def fingerprint(self) -> Fingerprint: ...


@dataclass(frozen=True)
class RunData:
    """What a run trains and is tested on."""

    train: OpenedSet
    test: OpenedSet

    @classmethod
    def of(cls, train: OpenedSet, test: OpenedSet) -> RunData:
        """Of two opened splits; nothing is read yet."""
        return cls(train, test)

    @cached_property
    def known(self) -> dict[str, Fingerprint]:
        """The fingerprints of both splits, "train" and "test"."""
        return {"train": self.train.fingerprint, "test": self.test.fingerprint}

    @cached_property
    def shared(self) -> SharedImages | None:
        """Test images that are training images too; None where there are too many to compare."""
        return find_shared(self.train.origin, self.test.origin)

    def warn_of_shared(self) -> None:
        """Warns if there are such images, or if nobody has looked."""
        names = self.train.name, self.test.name
        if self.shared is None:
            warn_once(not_compared(*names))
        elif self.shared.count:
            warn_once(self.shared.text(*names))

    def to_json(self) -> str:
        """For a trial's folder, see `read_data`."""
        return json.dumps({split: found.to_dict() for split, found in self.known.items()}) + "\n"

    def facts(self) -> dict[str, Any]:
        """The field `data` of a record."""
        splits = {split: found.facts() for split, found in self.known.items()}
        return {**splits, "in_both": None if self.shared is None else self.shared.count}


def read_data(path: Path) -> dict[str, Fingerprint]:
    """The splits that `RunData.to_json` wrote; {} if there is no such file, or, with a warning, if
    it is damaged."""
    try:
        content = read_json(path)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        warn_once(
            f"{path} is damaged, and what it says of the data is left out: {printable(error)}"
        )
        return {}
    if not (found := known_data(content)):
        warn_once(f"{path} names no data of a run, and is left out")
    return found
