"""Checks a file of torch.save before torch reads it: it must be complete and safe to read.

A torch file is a zip archive (before torch 1.6, several pickles in a row). The archive has a
checksum of each entry, but torch does not compare it, so a run would train on weights that a disk
or a copy has changed. Also, torch's safe loader builds nested tuples of any depth. If such a tuple
is the key of a mapping, its hash overflows the stack, which ends the process.
"""

from __future__ import annotations

import io
import logging
import pickletools
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch

from pretrain.common.errors import InputError

logger = logging.getLogger(__name__)

PIECE_BYTES = 1 << 20
DEEPEST = 1000  # allowed depth of nested tuples; real files have less than 10
# A file with fewer steps that make a tuple cannot nest too deeply, so it is not searched.
SAFE_TUPLES = 10_000
TUPLES = (b"\x85", b"\x86", b"\x87", b"t")
LEGACY_PICKLES = 5  # pickles at the beginning of a file from before torch 1.6
REMEDY = "copy or download it again, or take an earlier checkpoint"


def check_torch_file(path: Path) -> None:
    """Reads the complete file once.

    Raises:
        InputError: the file is truncated, its directory is damaged, an entry has a wrong checksum
            (the message names it), it is compressed (torch never does that), or it is nested too
            deeply.
    """
    with path.open("rb") as stream:
        if stream.read(2) != b"PK":
            stream.seek(0)
            _check_nesting(path, stream, LEGACY_PICKLES)
            return
    if not _has_directory(path):
        raise InputError(
            f"{path} is truncated: the end of its zip archive is missing "
            f"({path.stat().st_size} bytes are there); {REMEDY}"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            _check_size(path, archive)
            _check_entries(path, archive)
    except InputError:
        raise
    except Exception as error:  # zipfile raises many kinds of errors for a bad file
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path} has a damaged zip directory ({reason}); {REMEDY}") from error
    try:  # use torch's own reader: in a forged file, two readers can find different content
        # From a stream: torch opens a file by its name only if the name is UTF-8.
        with path.open("rb") as stream:
            content = torch._C.PyTorchFileReader(stream).get_record("data.pkl")
    except Exception as error:
        reason = str(error).split("\n")[0].partition(". ")[0]
        raise InputError(f"{path} is not a readable torch file ({reason}); {REMEDY}") from error
    if sum(map(content.count, TUPLES)) > SAFE_TUPLES:
        _check_nesting(path, io.BytesIO(content), 1)


def _has_directory(path: Path) -> bool:
    """Returns whether the end of the archive exists, damaged or not."""
    try:
        return zipfile.is_zipfile(path)
    except Exception:  # the end is damaged
        return True


def _check_size(path: Path, archive: zipfile.ZipFile) -> None:
    """Raises InputError for a compressed file, which could unfold to any size."""
    unfolded = sum(entry.file_size for entry in archive.infolist())
    if unfolded > path.stat().st_size:
        raise InputError(
            f"{path} declares {unfolded} bytes, more than the file has: it was zipped again with "
            "compression, which torch never does; unzip it, then zip -0 -r again.pth FOLDER"
        )


def _check_entries(path: Path, archive: zipfile.ZipFile) -> None:
    """Compares the checksums of all entries with their content."""
    entries = [entry for entry in archive.infolist() if entry.file_size]
    if entries and not any(entry.CRC for entry in entries):
        # Written after torch.serialization.set_crc32_options(False)
        logger.warning("%s was written without checksums: damage in it is not noticed", path)
        return
    for entry in entries:
        try:
            with archive.open(entry) as part:
                while part.read(PIECE_BYTES):
                    pass
        except Exception as error:  # see `check_torch_file`
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError(
                f"{path} is damaged: its entry {entry.filename} differs from what was written "
                f"({reason}); {REMEDY}"
            ) from error


def _check_nesting(path: Path, stream: BinaryIO, pickles: int) -> None:
    """Checks the pickles at the beginning of a stream for tuples that are nested too deeply."""
    for _ in range(pickles):
        try:
            deepest = _deepest_tuple(stream)
        except Exception:  # a damaged pickle: torch stops here too
            return
        if deepest > DEEPEST:
            raise InputError(f"{path} nests tuples more than {DEEPEST} deep, which is refused")


def _deepest_tuple(stream: BinaryIO) -> int:
    """Returns how deeply a pickle nests tuples; it stops counting beyond DEEPEST.

    It follows the stack of the pickle's program, with the depth of a value in place of the value.
    """
    stack: list[int] = []
    below: list[list[int]] = []  # the content of the stack at each mark
    memo: dict[Any, int] = {}
    deepest = 0
    for code, argument, _ in pickletools.genops(stream):
        if code.name == "MARK":
            below.append(stack)
            stack = []
        elif code.name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(memo[argument])
        elif code.name in ("BINPUT", "LONG_BINPUT", "PUT"):
            memo[argument] = stack[-1]
        elif code.name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif code.name == "DUP":
            stack.append(stack[-1])
        elif code.name == "POP" and not stack:
            stack = below.pop()
        else:
            taken: list[int] = []
            wanted = len(code.stack_before)
            if pickletools.markobject in code.stack_before:
                taken, stack = stack, below.pop()
                wanted = code.stack_before.index(pickletools.markobject)
            for _ in range(wanted):
                taken.append(stack.pop())
            depth = max(taken, default=0) + code.name.startswith("TUPLE")
            stack += [depth] * len(code.stack_after)
            deepest = max(deepest, depth)
            if deepest > DEEPEST:
                return deepest
    return deepest
