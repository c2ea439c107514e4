"""The folder of what can be made again, but not at once: downloads, and large files as columns."""

from __future__ import annotations

import os
from pathlib import Path

from pretrain.common.errors import InputError


def cache_folder() -> Path:
    """Returns `$MSCN_CACHE`, else `~/.cache/mscn`. What is in it may be deleted at any time.

    Raises InputError if the user has no home folder, as in some containers.
    """
    if given := os.environ.get("MSCN_CACHE"):
        return Path(given)
    try:
        return Path.home() / ".cache" / "mscn"
    except RuntimeError:
        raise InputError(
            "this user has no home folder for the cache; set MSCN_CACHE to a folder that this "
            "user may write"
        ) from None
