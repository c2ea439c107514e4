"""Refuses content whose containers share parts so often that traversing it would never end.

The names of tensors are paths through mappings, and the search for a network follows each path. A
file of some kilobytes can hold mappings of mappings that are all the same object: more paths than
can be walked. They are counted here without walking them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pretrain.common.errors import InputError

DEPTH = 8  # depth of containers; no reader follows longer paths
# A network that is stored under several names is shared, too: some copies of everything are read.
COPIES = 4
BEYOND = 100_000  # paths that every file may have


def check_sharing(content: Any, file: Path) -> None:
    """Raises InputError if there are far more paths to values than there are values."""
    paths = _Paths()
    count = paths.below(content, 0)
    if count > COPIES * paths.values + BEYOND:
        raise InputError(
            f"{file} holds containers that share their content, with {count:.1e} paths to "
            f"{paths.values} values, which is refused; save only the network's state_dict"
        )


class _Paths:
    """Counts `values`: the items of all containers that were looked at, each container once."""

    def __init__(self) -> None:
        self.values = 0
        # keeps the containers alive, so that their ids are not used again
        self._seen: dict[int, Any] = {}
        self._below: dict[tuple[int, int], int] = {}

    def below(self, value: Any, depth: int) -> int:
        """Returns the number of paths to values below a container; 1 for a plain value."""
        if not _is_container(value) or depth > DEPTH:
            return 1
        key = id(value), depth
        if key not in self._below:
            if id(value) not in self._seen:
                self._seen[id(value)] = value
                self.values += len(value)
            items = value.values() if isinstance(value, Mapping) else value
            inner = [one for one in items if _is_container(one)]
            plain = 1 + len(value) - len(inner)
            self._below[key] = plain + sum(self.below(one, depth + 1) for one in inner)
        return self._below[key]


def _is_container(value: Any) -> bool:
    return isinstance(value, (dict, list, tuple, Mapping))
