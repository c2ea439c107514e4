"""Draws pictures of the training images before a detector is trained.

PNG files of the first training images of a config, resized and flipped as the detector gets them,
with their boxes, class names and masks.
"""

from __future__ import annotations

from pathlib import Path

from fvcore.common.config import CfgNode

from transfer.datasets.samples import DetectionSet
from transfer.detection.draw import draw_training_input, save_png
from transfer.detection.torchvision_engine.engine import training_batches


def show_data(cfg: CfgNode, train_set: DetectionSet, folder: Path, count: int) -> list[Path]:
    """Writes `count` annotated training images into the folder and returns their paths."""
    paths: list[Path] = []
    for batch in training_batches(cfg, train_set):
        for item in batch:
            stem = Path(item["file_name"]).stem
            path = folder / f"input_{len(paths):03d}_{stem}.png"
            save_png(draw_training_input(item, train_set.classes, cfg.INPUT.FORMAT), path)
            paths.append(path)
            if len(paths) == count:
                return paths
    return paths
