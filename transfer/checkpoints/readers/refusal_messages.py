"""Messages for files that a loader refuses: what the error means, and the remedy."""

from __future__ import annotations

import pickletools
import re
from pathlib import Path

TRUST = "--trust reads it if you know who made it"
_CUT = re.compile(
    r"truncated|ran out of input|unexpected EOF|end of file|central directory|wrong byte size|"
    r"not fully covered",
    re.IGNORECASE,
)
# How torch's safe loader names the objects that it does not build
# (torch/_weights_only_unpickler.py).
_NAMES = (
    r"GLOBAL (\S+)",
    r"but got <class '([^']+)'>",
    r"unsupported class (\S+)",
    r"function <(?:class|function|built-in function) '?([^'> ]+)",
    r"(Unsupported operand \d+)",
)
_OPERAND = re.compile(r"Unsupported operand (\d+)")
_CODES = {ord(code.code): code for code in pickletools.opcodes}
SAFE_PROTOCOL = 2  # the newest pickle protocol whose operations torch's safe loader knows
_SHARDS = re.compile(r"torch\.distributed\S*(DTensor|ShardedTensor|_shard)\S*")


def refusal(file: Path, name: str) -> str:
    """Returns the message for an object that is not built from an untrusted file.

    Args:
        name: the object's name, or what it is.
    """
    if _SHARDS.search(name):
        return f"{file} {one_part(name)}"
    if name.startswith("a numpy"):
        return not_plain(file, name)
    if operand := _OPERAND.fullmatch(name):
        code = _CODES.get(int(operand[1]))
        if code is not None and code.proto > SAFE_PROTOCOL:
            return (
                f"{file} was saved with pickle_protocol={code.proto} or newer, which torch's "
                "safe loader does not read; save it again without this argument of torch.save, or "
                f"{TRUST}"
            )
        return not_plain(file, f"the pickle operation {code.name if code else operand[1]}")
    return f"{file} asks to load {name}, which could run code, so it is refused; {TRUST}"


def one_part(name: str) -> str:
    """Returns the end of a message about a file that holds what only one process had."""
    return (
        f"holds {name}, one process's part of a network; save the complete network: "
        "torch.distributed.checkpoint.state_dict.get_model_state_dict(model, "
        "options=StateDictOptions(full_state_dict=True, cpu_offload=True))"
    )


def not_plain(file: Path, what: str) -> str:
    """Returns the message for content that no weights file needs; `what` names the content."""
    return f"{file} holds {what}, which is refused; {TRUST}"


def refused_name(message: str) -> str | None:
    """Returns what torch's safe loader did not build; None if it failed for a different reason."""
    inner = re.search(r"(a numpy [^;]*?)(\. |$|\n| Please)", message)
    if inner:
        return inner[1]
    for pattern in _NAMES:
        if found := re.search(pattern, message):
            return found[1]
    return None


def is_cut(error: Exception) -> bool:
    """Returns whether an error says that a file ends too early."""
    return isinstance(error, EOFError) or _CUT.search(str(error)) is not None
