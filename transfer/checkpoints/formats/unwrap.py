"""Removes what wrappers add to names, so that a file has the names of the network itself.

Training code often wraps a network, and each wrapper adds a part to every name below it:
torch.compile (torch/_dynamo/eval_frame.py), DDP and DataParallel (`module`), FSDP
(torch/distributed/fsdp), activation checkpointing (torch/distributed/algorithms/_checkpoint),
Lightning Fabric (lightning_fabric/wrappers.py), Opacus (grad_sample/grad_sample_module.py). They
may be nested in any order, and their parts may be anywhere in a name.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from pretrain.common.errors import InputError

WRAPPERS = frozenset(
    {
        "_orig_mod",
        "_fsdp_wrapped_module",
        "_fpw_module",
        "_checkpoint_wrapped_module",
        "_forward_module",
        "_module",
    }
)
DDP = "module"
DEPTH = 6  # mappings nested deeper are not looked into
_FLAT_PARAMETER = re.compile(r"(.*\.)?_?flat_param(_\d+)?")


@dataclass
class Unwrapped:
    """Holds a file's `content` under unwrapped names.

    Attributes:
        removed: the number of names that had a wrapper, by wrapper.
    """

    content: Mapping[str, Any]
    removed: Counter[str] = field(default_factory=Counter)

    def notes(self) -> tuple[str, ...]:
        """Returns one printable line if something was removed."""
        if not self.removed:
            return ()
        parts = ", ".join(f"`{name}.` ({count})" for name, count in sorted(self.removed.items()))
        return (f"parts that wrappers put into names were removed: {parts}",)


def unwrap(content: Mapping[str, Any], keep_first: bool = True) -> Unwrapped:
    """Returns the content with each wrapper's part removed from each tensor's name.

    Args:
        keep_first: leaves one `module.` at the beginning of a name, which formats know.

    Raises:
        InputError: two names become one, or the file holds one process's part of the network.
    """
    found = Unwrapped({})
    found.content = _walk(content, keep_first, found.removed, 0)
    return found


def _walk(content: Mapping[str, Any], keep_first: bool, removed: Counter, depth: int) -> Any:
    if depth > DEPTH:
        return content
    named = any(isinstance(value, (Tensor, np.ndarray)) for value in content.values())
    names: dict[Any, Any] = {}
    new: dict[Any, Any] = {}
    for key, value in content.items():
        name = key
        if named and isinstance(key, str):
            _refuse_shard(key)
            name = _unwrapped(key, keep_first, removed)
        if name in new:
            raise InputError(
                f"{names[name]} and {key} are both {name} without the wrappers' parts of the "
                "names; remove one of them from the file"
            )
        names[name] = key
        inner = isinstance(value, Mapping)
        new[name] = _walk(value, keep_first, removed, depth + 1) if inner else value
    return new


def _unwrapped(name: str, keep_first: bool, removed: Counter) -> str:
    *parts, leaf = name.split(".")
    gone = [part for part in parts if part in WRAPPERS or part == DDP]
    if not gone:
        return name
    kept = [part for part in parts if part not in WRAPPERS]
    first = keep_first and kept[:1] == [DDP]
    rest = [part for part in kept if part != DDP]
    if first:
        gone.remove(DDP)
    removed.update(set(gone))
    return ".".join([DDP] * first + rest + [leaf])


def _refuse_shard(name: str) -> None:
    if _FLAT_PARAMETER.fullmatch(name):
        raise InputError(
            f"it holds FSDP's flat parameters ({name}), one process's part of the network; save "
            "the whole network: torch.distributed.checkpoint.state_dict.get_model_state_dict("
            "model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))"
        )
