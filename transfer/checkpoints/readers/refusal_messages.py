"""The sentences for files that a loader refuses: an error in, what it means and the way out."""

from __future__ import annotations

import re
from pathlib import Path

TRUST = "--trust reads it if you know who made it"
_CUT = re.compile(
    r"truncated|ran out of input|unexpected EOF|end of file|central directory|wrong byte size|"
    r"not fully covered",
    re.IGNORECASE,
)
# How torch's safe loader names what it does not build (torch/_weights_only_unpickler.py).
_NAMES = (
    r"GLOBAL (\S+)",
    r"but got <class '([^']+)'>",
    r"unsupported class (\S+)",
    r"function <(?:class|function|built-in function) '?([^'> ]+)",
    r"(Unsupported operand \d+)",
)
_SHARDS = re.compile(r"torch\.distributed\S*(DTensor|ShardedTensor|_shard)\S*")


def refusal(file: Path, name: str) -> str:
    """The sentence for an object that is not built from a stranger's file.

    Args:
        name: of the object, or what it is.
    """
    if _SHARDS.search(name):
        return (
            f"{file} holds {name}, one process's part of a network; save the whole network: "
            "torch.distributed.checkpoint.state_dict.get_model_state_dict(model, "
            "options=StateDictOptions(full_state_dict=True, cpu_offload=True))"
        )
    if name.startswith("a numpy"):
        return not_plain(file, name)
    return f"{file} wants to load {name}, which could run code, and is refused; {TRUST}"


def not_plain(file: Path, what: str) -> str:
    """The sentence for content that no file of weights needs; `what` says what the file holds."""
    return f"{file} holds {what}, which is refused; {TRUST}"


def refused_name(message: str) -> str | None:
    """What torch's safe loader did not build; None if it failed for another reason."""
    inner = re.search(r"(a numpy [^;]*?)(\. |$|\n| Please)", message)
    if inner:
        return inner[1]
    for pattern in _NAMES:
        if found := re.search(pattern, message):
            return found[1]
    return None


def is_cut(error: Exception) -> bool:
    """Whether an error says that a file ends too early."""
    return isinstance(error, EOFError) or _CUT.search(str(error)) is not None
