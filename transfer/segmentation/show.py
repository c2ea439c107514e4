"""Pictures of the training images of a segmenter, to look at before the training.

They are PNG files of the first training images, scaled, cropped, flipped and jittered as in
training, and tinted by their masks.
"""

from __future__ import annotations

from pathlib import Path

from fvcore.common.config import CfgNode

from transfer.detection.draw import save_png
from transfer.segmentation.data import SemanticSet
from transfer.segmentation.draw import draw_map
from transfer.segmentation.training import training_batches


def show_data(cfg: CfgNode, train_set: SemanticSet, folder: Path, count: int) -> list[Path]:
    """Writes `count` transformed, tinted training images into the folder; returns their paths."""
    paths: list[Path] = []
    for batch in training_batches(cfg, train_set):
        for item in batch:
            path = folder / f"input_{len(paths):03d}_{Path(item['file_name']).stem}.png"
            pixels, mask = item["image"].permute(1, 2, 0).numpy(), item["mask"].numpy()
            save_png(draw_map(pixels, mask, train_set.classes, max(mask.shape)), path)
            paths.append(path)
            if len(paths) == count:
                return paths
    return paths
