"""The folder of what can be made again, but not at once: downloads, and large files as columns."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Returns `$MSCN_CACHE`, else `~/.cache/mscn`. What is in it may be deleted at any time."""
    return Path(os.environ.get("MSCN_CACHE") or Path.home() / ".cache" / "mscn")
