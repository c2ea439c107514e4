"""From configs and run directories to pictures and their numbers. This module reads the configs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fvcore.common.config import CfgNode
from PIL import Image

from pretrain.common.config import load_config
from pretrain.common.errors import InputError
from pretrain.common.run_files import CHECKPOINT, CONFIG
from pretrain.data.build import build_view_maker, first_crops, train_images
from pretrain.data.datasets import ImageDataset
from pretrain.data.views_picture import draw_columns, save_png
from pretrain.defaults import get_defaults
from pretrain.methods.build import load_trunk, trunk_width
from pretrain.visual.curves import RunCurves, read_curves
from pretrain.visual.gallery import LEGEND, PAGE, stack_sheets, view_columns
from pretrain.visual.spectrum import measure_spectrum

LARGEST_TILE = 128  # px, if several configs share a picture


def draw_views(
    configs: Mapping[str, CfgNode], images: ImageDataset | None, rows: int, folder: Path
) -> list[Path]:
    """Writes views_NAME.png for each config. For several configs it also writes views.png, with a
    block of rows for each config: the same images from the same seed. Returns the paths.

    Args:
        images: the images to draw; None is DATASETS.TRAIN.
        rows: number of images.

    Raises:
        InputError: the configs differ in their seed or, without `images`, in their data.
    """
    check_comparable(configs, images is None)
    images = images or train_images(next(iter(configs.values())))
    sheets: dict[str, Image.Image] = {}
    blocks: list[Image.Image] = []
    for name, cfg in configs.items():
        crops = first_crops(cfg, images, rows)
        columns = view_columns(build_view_maker(cfg), crops, cfg.SEED)
        heading = f"{name} ({LEGEND})"
        sheets[f"views_{name}.png"] = draw_columns(columns, heading, None, PAGE)
        blocks.append(draw_columns(columns, name if blocks else heading, LARGEST_TILE, PAGE))
    if len(blocks) > 1:
        sheets["views.png"] = stack_sheets(blocks)
    return [save_png(sheet, folder / name) for name, sheet in sheets.items()]


def check_comparable(configs: Mapping[str, CfgNode], own_images: bool) -> None:
    """Raises InputError if the configs would not show the same images and draws."""
    seeds = {name: cfg.SEED for name, cfg in configs.items()}
    data = {
        name: (cfg.DATASETS.TRAIN, cfg.DATASETS.LIMIT_PER_CLASS) for name, cfg in configs.items()
    }
    if len(set(seeds.values())) > 1:
        raise InputError(f"SEED differs between the configs ({seeds}); add SEED 0 at the end")
    if own_images and len(set(data.values())) > 1:
        raise InputError(f"DATASETS.TRAIN differs between the configs ({data}); give --images")


def describe_run(run: Path, name: str, images: ImageDataset | None) -> RunCurves:
    """Returns a run directory's curves, with references if it has a config.yaml. If images are
    given, also the spectrum of its checkpoint.pth, if that exists.
    """
    found = RunCurves(name, read_curves(run))
    if not (run / CONFIG).is_file():
        return found
    cfg = load_config(str(run / CONFIG), get_defaults())
    width, outputs = trunk_width(cfg), cfg.METHOD.PROJECTOR.OUT_DIM
    dims = {"feature_std": width, "batch_feature_std": width, "output_std": outputs}
    found.references = {name: dims[name] ** -0.5 for name in dims if name in found.curves}
    if images is not None and (run / CHECKPOINT).is_file():
        trunk, preprocess = load_trunk(cfg, run / CHECKPOINT)
        found.spectrum = measure_spectrum(trunk, images, preprocess, cfg.VIEWS.SIZE)
    return found
