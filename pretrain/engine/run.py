"""The only builder of pretraining: a config in, a run directory with `checkpoint.pth` out.

Everything else in `pretrain` takes plain arguments.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pretrain.backbones.heads import build_projector
from pretrain.backbones.resnet import BACKBONES, build_backbone
from pretrain.common import distributed
from pretrain.common.checkpoint import atomic_write_text
from pretrain.common.config import dump_yaml
from pretrain.common.errors import InputError
from pretrain.common.logs import MetricsWriter, setup_logging
from pretrain.common.lookup import find
from pretrain.common.sync_batchnorm import convert_sync_batchnorm
from pretrain.data.augment import ViewRecipe
from pretrain.data.crops import CropSpec
from pretrain.data.datasets import ImageDataset, open_images
from pretrain.data.highpass import HighPass
from pretrain.data.loader import CropLoader
from pretrain.data.masking import MaskRecipe
from pretrain.data.preprocess import Preprocess
from pretrain.data.views import ViewMaker
from pretrain.engine.callbacks import Callback, Checkpoint, Metrics, ProgressBar, ViewPanel
from pretrain.engine.loop import Training, train
from pretrain.engine.monitor import KnnMonitor
from pretrain.engine.state import resume_training
from pretrain.methods.mscn import BASES, PAIRINGS
from pretrain.methods.simclr import SimCLR
from pretrain.methods.table import METHODS
from pretrain.optim.build import OPTIMIZERS, build_optimizer
from pretrain.optim.schedules import scaled_lr, warmup_cosine

logger = logging.getLogger(__name__)


def pretrain(config_text: str, output: str, resume: bool) -> None:
    """One process's part of a run; `config_text` is the merged config as YAML.

    With `resume`, continues from `output/checkpoint.pth` where there is one.
    Raises InputError for what the config or the data cannot do.
    """
    cfg = CfgNode.load_cfg(config_text)
    cfg.freeze()
    folder = Path(output)
    device = distributed.init_distributed()
    setup_logging(folder)
    torch.backends.cudnn.benchmark = True  # all inputs have one size
    training = build_training(cfg, device)
    facts = checkpoint_facts(cfg)
    checkpoint = folder / "checkpoint.pth"
    resuming = resume and checkpoint.is_file()
    if resuming:
        resume_training(training, facts, checkpoint)
        logger.info("resuming %s at step %d of %d", output, training.step, training.total_steps)
    if distributed.is_main():
        atomic_write_text(folder / "config.yaml", config_text)
    train(training, build_callbacks(cfg, folder, facts, training.step if resuming else None))
    distributed.barrier()
    distributed.close_distributed()


def check_inputs(cfg: CfgNode) -> None:
    """Opens the data sets and builds the view maker, so that bad input is found before any process
    starts. Raises InputError."""
    find(cfg.METHOD.NAME, METHODS, "method", "METHOD.NAME")
    find(cfg.METHOD.BASE, BASES, "base loss", "METHOD.BASE")
    find(cfg.METHOD.PAIRS, PAIRINGS, "set of pairs", "METHOD.PAIRS")
    find(cfg.BACKBONE.NAME, BACKBONES, "backbone", "BACKBONE.NAME")
    find(cfg.SOLVER.OPTIMIZER, OPTIMIZERS, "optimizer", "SOLVER.OPTIMIZER")
    build_view_maker(cfg)
    images = len(train_images(cfg))
    if images < cfg.SOLVER.BATCH_SIZE:
        raise InputError(
            f"DATASETS.TRAIN {cfg.DATASETS.TRAIN} has {images} images, less than one "
            f"SOLVER.BATCH_SIZE {cfg.SOLVER.BATCH_SIZE}; lower it"
        )
    steps = images // cfg.SOLVER.BATCH_SIZE
    warmup_steps(cfg, steps, total_steps(cfg, steps))
    for spec in (cfg.DATASETS.KNN_TRAIN, cfg.DATASETS.KNN_TEST):
        if spec and not open_images(spec).classes:
            raise InputError(f"{spec} has no class folders; the kNN monitor needs labels")


def build_training(cfg: CfgNode, device: torch.device) -> Training:
    """Networks, data and optimizer of one process, at step 0."""
    torch.manual_seed(cfg.SEED)
    method = build_method(cfg).to(device, memory_format=torch.channels_last)
    method = convert_sync_batchnorm(method, device)
    maker = build_view_maker(cfg)
    loader = build_loader(cfg, train_images(cfg))
    total = total_steps(cfg, loader.steps_per_epoch)
    lr = scaled_lr(cfg.SOLVER.LR_PER_256, cfg.SOLVER.BATCH_SIZE)
    warmup = warmup_steps(cfg, loader.steps_per_epoch, total)

    def lr_at(step: int) -> float:
        return warmup_cosine(
            step,
            base_lr=lr,
            total_steps=total,
            warmup_steps=warmup,
            final_fraction=cfg.SOLVER.FINAL_LR_FRACTION,
        )

    return Training(
        method=method,
        model=wrap_for_processes(method, device),
        optimizer=build_optimizer(
            method,
            cfg.SOLVER.OPTIMIZER,
            lr=lr,
            weight_decay=cfg.SOLVER.WEIGHT_DECAY,
            momentum=cfg.SOLVER.MOMENTUM,
            betas=tuple(cfg.SOLVER.BETAS),
            trust_coefficient=cfg.SOLVER.TRUST_COEFFICIENT,
            exclude_norm_and_bias=cfg.SOLVER.EXCLUDE_NORM_AND_BIAS,
        ),
        lr_at=lr_at,
        loader=loader,
        make_views=maker,
        branches=branches(cfg),
        device=device,
        total_steps=total,
        batch_size=cfg.SOLVER.BATCH_SIZE,
        seed=cfg.SEED,
        bf16=cfg.SOLVER.BF16 and device.type == "cuda",
    )


def build_method(cfg: CfgNode) -> nn.Module:
    """Untrained trunk, projector and loss."""
    kind = find(cfg.METHOD.NAME, METHODS, "method", "METHOD.NAME")
    trunk = build_backbone(cfg.BACKBONE.NAME, cfg.BACKBONE.ZERO_INIT_RESIDUAL)
    head = cfg.METHOD.PROJECTOR
    projector = build_projector(
        trunk.out_dim, hidden_dim=head.HIDDEN_DIM, out_dim=head.OUT_DIM, layers=head.LAYERS
    )
    joint = cfg.METHOD.JOINT_FORWARD
    if kind is SimCLR:
        return SimCLR(trunk, projector, temperature=cfg.METHOD.TEMPERATURE, joint_forward=joint)
    base = find(cfg.METHOD.BASE, BASES, "base loss", "METHOD.BASE")(cfg.METHOD.TEMPERATURE)
    pairing = find(cfg.METHOD.PAIRS, PAIRINGS, "set of pairs", "METHOD.PAIRS")
    return kind(trunk, projector, base, pairing=pairing, joint_forward=joint)


def wrap_for_processes(method: nn.Module, device: torch.device) -> nn.Module:
    """The method itself in one process, else its DistributedDataParallel."""
    if distributed.world_size() == 1:
        return method
    devices = [device.index] if device.type == "cuda" else None
    # SyncBN keeps the buffers equal, so nothing is broadcast before each step.
    return DistributedDataParallel(method, device_ids=devices, broadcast_buffers=False)


def branches(cfg: CfgNode) -> list[int]:
    """The branch (0 = A, 1 = B) of each view."""
    return [0] * cfg.VIEWS.A.COUNT + [1] * cfg.VIEWS.B.COUNT


def build_view_maker(cfg: CfgNode) -> ViewMaker:
    """Augmentation, filter and mask of each view. Raises InputError for what does not fit SIZE."""
    nodes = [cfg.VIEWS.B if branch else cfg.VIEWS.A for branch in branches(cfg)]
    maker = ViewMaker(
        [view_recipe(cfg, node) for node in nodes],
        highpasses=[build_highpass(cfg) if node.HIGHPASS else None for node in nodes],
        masks=[mask_recipe(cfg, node) for node in nodes],
        same_view=shared_with_first(len(nodes), cfg.VIEWS.SAME_VIEW),
    )
    maker.check(cfg.VIEWS.SIZE)
    return maker


def view_recipe(cfg: CfgNode, branch: CfgNode) -> ViewRecipe:
    """The photometric augmentation of one branch (VIEWS.A or VIEWS.B)."""
    brightness, contrast, saturation, hue = cfg.VIEWS.JITTER
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
    """The masks of one branch; None where nothing can be masked."""
    if branch.MASK_PROB == 0 or max(cfg.MASK.RATIO) == 0:
        return None
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
        noise=cfg.MASK.NOISE,
        noise_std=cfg.MASK.NOISE_STD,
        apply_prob=branch.MASK_PROB,
    )


def build_highpass(cfg: CfgNode) -> HighPass:
    """The filter."""
    return HighPass(cfg.HIGHPASS.KERNEL_SIZE, cfg.HIGHPASS.SIGMA, cfg.HIGHPASS.BORDER)


def transfer_preprocess(cfg: CfgNode) -> Preprocess:
    """What the weights want of their input downstream (HIGHPASS.AT_TRANSFER)."""
    everywhere = cfg.VIEWS.A.HIGHPASS and cfg.VIEWS.B.HIGHPASS
    wanted = {"auto": everywhere, "yes": True, "no": False}[cfg.HIGHPASS.AT_TRANSFER]
    return Preprocess(highpass=build_highpass(cfg) if wanted else None)


def train_images(cfg: CfgNode) -> ImageDataset:
    """DATASETS.TRAIN, or its first LIMIT_PER_CLASS images of each class."""
    return open_images(cfg.DATASETS.TRAIN, cfg.DATASETS.LIMIT_PER_CLASS or None)


def build_loader(cfg: CfgNode, images: ImageDataset) -> CropLoader:
    """This process's part of the global batches."""
    spec = CropSpec(
        cfg.VIEWS.SIZE,
        tuple(cfg.VIEWS.CROP_SCALE),
        tuple(cfg.VIEWS.CROP_RATIO),
        cfg.VIEWS.INTERPOLATION,
    )
    views = len(branches(cfg))
    return CropLoader(
        images,
        crops=[spec] * views,
        same_crop=shared_with_first(views, cfg.VIEWS.SAME_CROP),
        batch_size=cfg.SOLVER.BATCH_SIZE // distributed.world_size(),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        seed=cfg.SEED,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
        max_corrupt=cfg.DATALOADER.MAX_CORRUPT,
        cache_decoded=cfg.DATALOADER.CACHE_DECODED,
    )


def total_steps(cfg: CfgNode, steps_per_epoch: int) -> int:
    """Steps of the whole run."""
    return cfg.SOLVER.MAX_STEPS or cfg.SOLVER.EPOCHS * steps_per_epoch


def warmup_steps(cfg: CfgNode, steps_per_epoch: int, total_steps: int) -> int:
    """Steps of the linear warmup. Raises InputError when it fills the run."""
    steps = cfg.SOLVER.WARMUP_STEPS or round(cfg.SOLVER.WARMUP_EPOCHS * steps_per_epoch)
    if steps >= total_steps:
        raise InputError(
            f"the warmup of {steps} steps fills the run of {total_steps}; lower "
            "SOLVER.WARMUP_EPOCHS (or set SOLVER.WARMUP_STEPS)"
        )
    return steps


def checkpoint_facts(cfg: CfgNode) -> dict[str, Any]:
    """The parts of a checkpoint that training does not change."""
    return {
        "method": cfg.METHOD.NAME,
        "backbone": cfg.BACKBONE.NAME,
        "config": dump_yaml(cfg),
        "preprocess": transfer_preprocess(cfg).to_dict(),
    }


def build_callbacks(
    cfg: CfgNode, folder: Path, facts: dict[str, Any], resume_step: int | None
) -> list[Callback]:
    """Checkpoints, views.png, monitor, metrics, progress bar: in the order of their calls."""
    writer = MetricsWriter(folder, resume_step)
    callbacks: list[Callback] = [Metrics(writer, cfg.LOG.EVERY_STEPS), ProgressBar()]
    if cfg.DATASETS.KNN_TRAIN:
        callbacks.insert(0, build_monitor(cfg, writer))
    checkpoint = Checkpoint(
        folder,
        facts,
        every_epochs=cfg.CHECKPOINT.EVERY_EPOCHS,
        every_steps=cfg.CHECKPOINT.EVERY_STEPS,
        keep_every_epochs=cfg.CHECKPOINT.KEEP_EVERY_EPOCHS,
    )
    return [checkpoint, ViewPanel(folder), *callbacks]


def build_monitor(cfg: CfgNode, writer: MetricsWriter) -> KnnMonitor:
    """The kNN monitor, on input as the weights want it downstream."""
    return KnnMonitor(
        open_images(cfg.DATASETS.KNN_TRAIN),
        open_images(cfg.DATASETS.KNN_TEST),
        writer,
        transfer_preprocess(cfg),
        size=cfg.VIEWS.SIZE,
        every_epochs=cfg.KNN.EVERY_EPOCHS,
        k=cfg.KNN.K,
        temperature=cfg.KNN.TEMPERATURE,
        limits=(cfg.KNN.TRAIN_LIMIT, cfg.KNN.TEST_LIMIT),
        batch_size=cfg.KNN.BATCH_SIZE,
    )


def shared_with_first(views: int, shared: bool) -> list[int | None]:
    """For each view the earlier view it shares with: view 0 if `shared`, else none."""
    return [None] + [0 if shared else None] * (views - 1)


def number_or_range(value: tuple[float, ...]) -> float | tuple[float, float]:
    """A config tuple of one value as a number, of two as a range."""
    return value[0] if len(value) == 1 else (value[0], value[1])
