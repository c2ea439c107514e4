"""From a pretraining config to its data: loader, views, and the input that the weights expect.

Branches are 0 (VIEWS.A), 1 (VIEWS.B) and 2 (VIEWS.FOCAL), in this order of views.
"""

from __future__ import annotations

from dataclasses import dataclass

from fvcore.common.config import CfgNode
from torch import Tensor

from pretrain.common import distributed
from pretrain.common.errors import named_node
from pretrain.common.resources import usable_workers
from pretrain.data.augment import ViewRecipe
from pretrain.data.crops import CropSpec
from pretrain.data.datasets import ImageDataset, first_of_each_class, open_images
from pretrain.data.highpass import HighPass
from pretrain.data.loader import Batch, CropLoader, batch_bytes, shared_bytes
from pretrain.data.masking import MaskRecipe
from pretrain.data.preprocess import Preprocess
from pretrain.data.views import ViewMaker


def view_nodes(cfg: CfgNode) -> list[CfgNode]:
    """Returns the config node of each branch."""
    return [cfg.VIEWS.A, cfg.VIEWS.B, cfg.VIEWS.FOCAL]


def branches(cfg: CfgNode) -> list[int]:
    """Returns the branch of each view."""
    return [branch for branch, node in enumerate(view_nodes(cfg)) for _ in range(node.COUNT)]


def view_sizes(cfg: CfgNode) -> list[int]:
    """Returns the side of each view in pixels."""
    sizes = (cfg.VIEWS.SIZE, cfg.VIEWS.SIZE, cfg.VIEWS.FOCAL.SIZE)
    return [sizes[branch] for branch in branches(cfg)]


def build_view_maker(cfg: CfgNode) -> ViewMaker:
    """Returns the maker with the augmentation, filter and mask of each view. Raises InputError if
    one does not fit SIZE.
    """
    nodes = [view_nodes(cfg)[branch] for branch in branches(cfg)]
    maker = ViewMaker(
        [view_recipe(cfg, node) for node in nodes],
        highpasses=[build_highpass(cfg) if node.HIGHPASS else None for node in nodes],
        masks=[mask_recipe(cfg, node) for node in nodes],
        same_view=shared_with_first(branches(cfg), cfg.VIEWS.SAME_VIEW),
    )
    sizes = [crop.size for crop in crop_specs(cfg)]
    with named_node("VIEWS"):
        maker.check(sizes)
    return maker


def view_recipe(cfg: CfgNode, branch: CfgNode) -> ViewRecipe:
    """Returns the photometric augmentation of one branch. Raises InputError for a bad value."""
    brightness, contrast, saturation, hue = cfg.VIEWS.JITTER
    with named_node("VIEWS"):
        return ViewRecipe(
            flip_prob=cfg.VIEWS.FLIP_PROB,
            jitter_prob=cfg.VIEWS.JITTER_PROB,
            brightness=brightness,
            contrast=contrast,
            saturation=saturation,
            hue=hue,
            gray_prob=cfg.VIEWS.GRAY_PROB,
            blur_prob=branch.BLUR_PROB,
            blur_sigma=tuple(cfg.VIEWS.BLUR_SIGMA),
            blur_kernel=cfg.VIEWS.BLUR_KERNEL or None,
            solarize_prob=branch.SOLARIZE_PROB,
        )


def mask_recipe(cfg: CfgNode, branch: CfgNode) -> MaskRecipe | None:
    """Returns the masks of one branch; None if nothing can be masked. Raises InputError for a bad
    value.
    """
    if masked_view_share(cfg, branch) == 0:
        return None
    with named_node("MASK"):
        return MaskRecipe(
            ratio=number_or_range(cfg.MASK.RATIO),
            grid_size=cfg.MASK.GRID_SIZE,
            random_phase=cfg.MASK.RANDOM_PHASE,
            exact_count=cfg.MASK.EXACT_COUNT,
            focal_prob=cfg.MASK.FOCAL_PROB,
            focal_size=number_or_range(cfg.MASK.FOCAL_SIZE),
            focal_aspect=tuple(cfg.MASK.FOCAL_ASPECT),
            channel_prob=cfg.MASK.CHANNEL_PROB,
            channel_kinds=cfg.MASK.CHANNEL_KINDS,
            fill=cfg.MASK.FILL,
            blur_sigma=cfg.MASK.BLUR_SIGMA,
            noise=cfg.MASK.NOISE,
            noise_std=cfg.MASK.NOISE_STD,
            noise_relative=cfg.MASK.NOISE_RELATIVE,
            apply_prob=branch.MASK_PROB,
        )


def masked_view_share(cfg: CfgNode, branch: CfgNode) -> float:
    """Returns the share of a branch's views that are masked; 0 if the mask ratio is 0."""
    return branch.MASK_PROB if max(cfg.MASK.RATIO) > 0 else 0.0


def build_highpass(cfg: CfgNode) -> HighPass:
    """Returns the filter. Raises InputError for a bad value."""
    with named_node("HIGHPASS"):
        return HighPass(cfg.HIGHPASS.KERNEL_SIZE, cfg.HIGHPASS.SIGMA, cfg.HIGHPASS.BORDER)


def transfer_preprocess(cfg: CfgNode) -> Preprocess:
    """Returns the input that the weights expect in downstream tasks (HIGHPASS.AT_TRANSFER)."""
    everywhere = all(node.HIGHPASS for node in view_nodes(cfg) if node.COUNT)
    wanted = {"auto": everywhere, "yes": True, "no": False}[cfg.HIGHPASS.AT_TRANSFER]
    return Preprocess(highpass=build_highpass(cfg) if wanted else None)


@dataclass(frozen=True)
class PretrainingData:
    """Holds the data sets of a config; each of them is opened once.

    Attributes:
        named: each complete set that the config names, by its name.
        train: DATASETS.TRAIN, or its first LIMIT_PER_CLASS images of each class.
        monitor: bank and queries of the kNN monitor; None if the config has no monitor.
    """

    named: dict[str, ImageDataset]
    train: ImageDataset
    monitor: tuple[ImageDataset, ImageDataset] | None


def open_data(cfg: CfgNode, opened: dict[str, ImageDataset] | None = None) -> PretrainingData:
    """Opens the config's data sets. Raises InputError as `open_images` does.

    Args:
        opened: sets that are already open, by name; the sets opened here are added.
    """
    sets, limit = cfg.DATASETS, cfg.DATASETS.LIMIT_PER_CLASS
    wanted = (sets.TRAIN, sets.KNN_TRAIN, sets.KNN_TEST) if sets.KNN_TRAIN else (sets.TRAIN,)
    opened = {} if opened is None else opened
    for name in wanted:
        if name not in opened:
            opened[name] = open_images(name)
    named = {name: opened[name] for name in dict.fromkeys(wanted)}
    train = named[sets.TRAIN]
    return PretrainingData(
        named,
        first_of_each_class(sets.TRAIN, train, limit) if limit else train,
        (named[sets.KNN_TRAIN], named[sets.KNN_TEST]) if sets.KNN_TRAIN else None,
    )


def train_images(cfg: CfgNode) -> ImageDataset:
    """Returns DATASETS.TRAIN, or its first LIMIT_PER_CLASS images of each class."""
    return open_images(cfg.DATASETS.TRAIN, cfg.DATASETS.LIMIT_PER_CLASS or None)


def crop_specs(cfg: CfgNode) -> list[CropSpec]:
    """Returns the random crop of each view. Raises InputError for a bad value."""
    ratio, interpolation = tuple(cfg.VIEWS.CROP_RATIO), cfg.VIEWS.INTERPOLATION
    with named_node("VIEWS"):
        whole = CropSpec(cfg.VIEWS.SIZE, tuple(cfg.VIEWS.CROP_SCALE), ratio, interpolation)
    node = cfg.VIEWS.FOCAL
    with named_node("VIEWS.FOCAL"):
        focal = CropSpec(node.SIZE, tuple(node.CROP_SCALE), ratio, interpolation)
    return [focal if branch == 2 else whole for branch in branches(cfg)]


def build_loader(cfg: CfgNode, images: ImageDataset) -> CropLoader:
    """Returns this process's part of the global batches."""
    return CropLoader(
        images,
        crops=crop_specs(cfg),
        same_crop=shared_with_first(branches(cfg), cfg.VIEWS.SAME_CROP),
        batch_size=cfg.SOLVER.BATCH_SIZE // distributed.world_size(),
        num_workers=usable_workers(cfg.DATALOADER.NUM_WORKERS),
        seed=cfg.SEED,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
        max_corrupt=cfg.DATALOADER.MAX_CORRUPT,
        cache_decoded=cfg.DATALOADER.CACHE_DECODED,
        resize=cfg.VIEWS.RESIZE,
        ahead_bytes=ahead_bytes(cfg),
    )


def loader_batch_bytes(cfg: CfgNode, num_processes: int) -> int:
    """Returns the number of bytes of one batch of one of the processes, as its loader makes it."""
    return batch_bytes(crop_specs(cfg), cfg.SOLVER.BATCH_SIZE // num_processes)


def ahead_bytes(cfg: CfgNode) -> int:
    """Returns the number of bytes of shared memory that one process's waiting batches may fill."""
    return int(cfg.DATALOADER.PREFETCH_GIB * 2**30)


def loader_shared_bytes(cfg: CfgNode, num_processes: int, num_workers: int | None = None) -> int:
    """Returns the number of bytes of shared memory (/dev/shm) that the waiting batches of one of
    `num_processes` processes fill at most.

    Args:
        num_workers: worker processes of each process; None means as many as this machine would
            start for the config.
    """
    if num_workers is None:
        num_workers = usable_workers(cfg.DATALOADER.NUM_WORKERS)
    batch = cfg.SOLVER.BATCH_SIZE // num_processes
    return shared_bytes(crop_specs(cfg), batch, num_workers, ahead_bytes(cfg))


def first_crops(cfg: CfgNode, images: ImageDataset, number: int) -> list[Tensor]:
    """Returns the crops of the first `number` images (all, if there are fewer) that a run sees, as
    its loader makes them: V uint8 (N, 3, S, S).
    """
    return first_batch(cfg, images, number).crops


def first_batch(cfg: CfgNode, images: ImageDataset, number: int) -> Batch:
    """Returns the crops of `first_crops`, with the images' places in the data set."""
    few = cfg.clone()
    few.defrost()
    few.SOLVER.BATCH_SIZE = min(number, len(images))
    few.DATALOADER.NUM_WORKERS, few.DATALOADER.CACHE_DECODED = 0, False
    return next(iter(build_loader(few, images).epoch(0)))


def shared_with_first(branches: list[int], shared: bool) -> list[int | None]:
    """Returns, for each view, the earlier view whose pixels it shares: view 0 if `shared`,
    otherwise None. Focal views never share.
    """
    return [0 if shared and view and branch < 2 else None for view, branch in enumerate(branches)]


def number_or_range(value: tuple[float, ...]) -> float | tuple[float, float]:
    """Returns the meaning of a config's tuple: one value becomes a number, two values become a
    range.
    """
    return value[0] if len(value) == 1 else (value[0], value[1])
