"""The data of a run: both splits' fingerprints, and how many test images are also training images.

They are written to a trial's folder at its start (`data.json`), and to its record.
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
    """Holds the identity of a split's data; see `transfer.trials.task.ImageSet`."""

    @property
    def name(self) -> str: ...

    @property
    def origin(self) -> Origin: ...

    @property
    def fingerprint(self) -> Fingerprint: ...


@dataclass(frozen=True)
class RunData:
    """Holds the training data and the test data of a run."""

    train: OpenedSet
    test: OpenedSet

    @classmethod
    def of(cls, train: OpenedSet, test: OpenedSet) -> RunData:
        """Makes the data of two opened splits; nothing is read yet."""
        return cls(train, test)

    @cached_property
    def known(self) -> dict[str, Fingerprint]:
        """Returns the fingerprints of both splits, "train" and "test"."""
        return {"train": self.train.fingerprint, "test": self.test.fingerprint}

    @cached_property
    def shared(self) -> SharedImages | None:
        """Returns the test images that are also training images; None if there are too many to
        compare.
        """
        return find_shared(self.train.origin, self.test.origin)

    def warn_of_shared(self) -> None:
        """Warns if there are such images, or if the images were not compared."""
        names = self.train.name, self.test.name
        if self.shared is None:
            warn_once(not_compared(*names))
        elif self.shared.count:
            warn_once(self.shared.text(*names))

    def to_json(self) -> str:
        """Returns the text of a trial's data.json, which `read_data` reads."""
        return json.dumps({split: found.to_dict() for split, found in self.known.items()}) + "\n"

    def facts(self) -> dict[str, Any]:
        """Returns the field `data` of a record."""
        splits = {split: found.facts() for split, found in self.known.items()}
        return {**splits, "in_both": None if self.shared is None else self.shared.count}


def read_data(path: Path) -> dict[str, Fingerprint]:
    """Returns the splits that `RunData.to_json` wrote.

    Returns {} if there is no such file, or, with a warning, if it is damaged.
    """
    try:
        content = read_json(path)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        warn_once(f"{path} is damaged, so the run's data is not compared: {printable(error)}")
        return {}
    if not (found := known_data(content)):
        warn_once(f"{path} has no data of a run and is ignored")
    return found
