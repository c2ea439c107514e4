"""The JSON file of a benchmark: its results, the machine and the versions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pretrain.common.checkpoint import atomic_write_text
from pretrain.common.environment import describe_environment, describe_hardware


def write_result(path: Path, measured: Mapping[str, Any]) -> None:
    """Writes `measured` with hardware and versions added; raises OSError like `atomic_write`."""
    result = {
        **measured,
        "hardware": describe_hardware(),
        "environment": describe_environment(),
    }
    atomic_write_text(path, json.dumps(result, indent=1) + "\n")
