"""Writes the artifacts of a record: files in the run's folder that the report shows.

`kernels.png` is drawn from the backbone's weights, and `curves.json` is written from rows of
scalars. `views.png` and `pretrain_curves.json` are copied from the checkpoint's folder, if it is
the folder of a pretraining run. A record has the paths of all artifacts relative to itself.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pretrain.backbones.first_layer_kernels import first_layer, tile_kernels
from pretrain.common.checkpoint import atomic_write, atomic_write_text
from pretrain.common.errors import InputError
from pretrain.common.logs import read_metrics
from pretrain.common.regular_file import MEGABYTE, read_regular
from pretrain.common.run_files import CONFIG, METRICS

if TYPE_CHECKING:
    from transfer.checkpoints.weights import Weights

logger = logging.getLogger(__name__)
Content = TypeVar("Content")
MOST_OF_VIEWS = 256 * MEGABYTE  # larger than any picture of views that a run writes
MAX_CURVE_POINTS = 300  # a curve in the report is about 600 px wide


def draw_kernels(weights: Weights, path: str | Path, cell: int = 28) -> Path:
    """Writes the first layer's kernels as one PNG and returns its path.

    The kernels are (K, 3, h, w): a ResNet's `conv1` or a ViT's patch embedding. Each kernel is
    divided by its largest absolute value: 0 is mid grey, and small kernels are visible too. It is
    enlarged by nearest neighbour to about `cell` px. Channels are shown in RGB, also if the network
    reads BGR.
    """
    from PIL import Image

    kernels = first_layer(weights.state)[1].numpy()
    if weights.preprocess.channel_order == "BGR":
        kernels = kernels[:, ::-1]
    peaks = abs(kernels).max(axis=(1, 2, 3))
    image = Image.fromarray(tile_kernels(kernels, peaks, max(1, cell // kernels.shape[-1])))
    atomic_write(Path(path), lambda file: image.save(file, format="PNG"))
    return Path(path)


def write_curves(path: str | Path, rows: Sequence[Mapping[str, float]]) -> Path:
    """Writes `rows` ({"step": int, name: value, ...}) as curves.json, thinned to 300 rows.

    A value that is not finite is written as null. Raises InputError for a row without "step".
    """
    for row in rows:
        if "step" not in row:
            raise InputError(f"{path}: a curve's row needs 'step', got {sorted(row)}")
    kept = [{name: _finite(value) for name, value in row.items()} for row in thin(rows)]
    atomic_write_text(Path(path), json.dumps(kept, allow_nan=False) + "\n")
    return Path(path)


def copy_pretrain_artifacts(weights_path: str | Path, folder: str | Path) -> dict[str, str]:
    """Copies artifacts of the pretraining run from the folder of `weights_path` into `folder`.

    It looks for views.png and metrics.jsonl; returns {artifact: file name} of the files found ({}
    for "random", or for weights outside a pretraining run's folder). A file that cannot be read is
    left out with a warning: it only illustrates the result, which exists already.
    """
    source = Path(weights_path).parent
    found: dict[str, str] = {}
    if not Path(weights_path).is_file():
        return found
    Path(folder).mkdir(parents=True, exist_ok=True)
    if (source / "views.png").is_file():
        views = _read_or_warn(source / "views.png", partial(read_regular, most_bytes=MOST_OF_VIEWS))
        if views is not None:
            atomic_write(Path(folder) / "views.png", lambda file: file.write(views))
            found["views"] = "views.png"
    # metrics.jsonl alone may be from any program; views.png or a config mark a run of ours
    if (source / METRICS).is_file() and (source / CONFIG).is_file():
        rows = _read_or_warn(source / METRICS, read_metrics)
        if rows is not None:
            steps = [row for row in rows if "step" in row]
            write_curves(Path(folder) / "pretrain_curves.json", steps)
            found["pretrain_curves"] = "pretrain_curves.json"
    return found


def _read_or_warn(path: Path, read: Callable[[Path], Content]) -> Content | None:
    """Returns what `read` returns; None, with a warning, if the system does not give the file."""
    try:
        return read(path)
    except OSError as error:
        reason = error.strerror or error
        logger.warning("%s cannot be read (%s): the report will not show it", path, reason)
        return None


def thin(rows: Sequence[Any], limit: int = MAX_CURVE_POINTS) -> list[Any]:
    """Returns at most `limit` of `rows`, evenly spaced, including the first and the last.

    Rare rows (an evaluation every few epochs) have different names from the frequent ones, so each
    set of names is thinned separately.
    """
    groups: dict[tuple[str, ...], list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault(tuple(sorted(row)), []).append(index)
    keep: set[int] = set()
    for members in groups.values():
        count = min(limit, len(members))
        keep.update(
            members[round(i * (len(members) - 1) / max(1, count - 1))] for i in range(count)
        )
    return [rows[index] for index in sorted(keep)]


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
