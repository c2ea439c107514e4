"""The only builder of pretraining: a config in, a run directory with `checkpoint.pth` out.

`data/build.py` and `methods/build.py` build data and method from the config; everything else takes
plain arguments. A resumed run is built from the config again, then `state.py` restores it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch.optim import Optimizer

from pretrain.common import distributed
from pretrain.common.checkpoint import atomic_write_text, load_newest_checkpoint
from pretrain.common.config import dump_yaml
from pretrain.common.errors import InputError
from pretrain.common.logs import MetricsWriter, setup_logging
from pretrain.common.precision import allow_tf32, amp_dtype, describe_precision
from pretrain.common.run_files import CHECKPOINT, CONFIG
from pretrain.common.sync_batchnorm import convert_group_batchnorm, convert_sync_batchnorm
from pretrain.data.build import (
    PretrainingData,
    branches,
    build_loader,
    build_view_maker,
    open_data,
    train_images,
    transfer_preprocess,
)
from pretrain.data.datasets import ImageDataset
from pretrain.data.refused_kinds import check_kinds
from pretrain.engine.callbacks import Callback, Checkpoint, Metrics, ProgressBar, ViewPanel
from pretrain.engine.checks import (
    batch_note,
    check_backbone,
    check_images,
    check_monitor,
    queue_note,
)
from pretrain.engine.compiled import compile_network
from pretrain.engine.loop import Training, train
from pretrain.engine.monitor import KnnMonitor
from pretrain.engine.nonfinite_guard import StepGuard
from pretrain.engine.precise_bn import FILE_NAME as PRECISE_BN_FILE
from pretrain.engine.precise_bn import PreciseBN
from pretrain.engine.side_stream import SideStream
from pretrain.engine.state import is_complete, resume_training
from pretrain.methods.all_methods import METHODS
from pretrain.methods.base import Method
from pretrain.methods.build import build_method, build_trunk
from pretrain.optim.build import GroupRules, build_optimizer, param_groups
from pretrain.optim.schedules import (
    by_epoch,
    half_cosine,
    scaled_lr,
    warmup_cosine,
    warmup_steps_down,
)

logger = logging.getLogger(__name__)


def pretrain(
    config_text: str, output: str, resume: bool, data: PretrainingData | None = None
) -> None:
    """Does one process's part of a run.

    Args:
        config_text: the merged config as YAML.
        resume: continue from `output/checkpoint.pth` if it exists.
        data: the config's data sets, if this process has already opened them.

    Raises InputError if the config or the data does not work.
    """
    cfg = CfgNode.load_cfg(config_text)
    cfg.freeze()
    folder = Path(output)
    device = distributed.init_distributed()
    found = load_newest_checkpoint(folder / CHECKPOINT) if resume else None
    complete = found is not None and is_complete(found[0])
    setup_logging(None if complete else folder)
    torch.backends.cudnn.benchmark = True  # all inputs have one size
    tf32 = allow_tf32(device) if cfg.SOLVER.TF32 else ""
    data = distributed.from_main(data, lambda: open_data(cfg))
    training = build_training(cfg, device, data.train)
    if distributed.is_main() and device.type != "cpu":
        logger.info("the network computes in %s", describe_precision(training.amp))
    facts = checkpoint_facts(cfg)
    if tf32 and distributed.is_main():
        logger.info(tf32)
    # One process reads the files and sends the result to all
    fingerprint = distributed.from_main(None, lambda: data.train.fingerprint)
    facts["data"] = {"train": fingerprint.to_dict()}
    if found is not None:
        resume_training(training, facts, *found)
        done, total = training.step, training.total_steps
        logger.info("continuing at step %d of %d from %s", done, total, found[1])
    resume_step = training.step if found is not None else -1
    del found
    if complete:  # no file changes, except after a kill at the very end
        if needs_precise_bn(cfg, folder):
            train(training, [build_precise_bn(cfg, folder, facts, data.train)])
    else:
        if distributed.is_main():
            atomic_write_text(folder / CONFIG, config_text)
            if note := batch_note(cfg):
                logger.warning(note)
        train(training, build_callbacks(cfg, folder, facts, data, resume_step))
    distributed.barrier()
    distributed.close_distributed()


def check_inputs(cfg: CfgNode, opened: dict[str, ImageDataset] | None = None) -> PretrainingData:
    """Opens the data sets and builds the view maker, so that bad input is found before any process
    starts. Returns the data.

    Args:
        opened: see `open_data`.

    Raises InputError if a config that passed `check_config` does not work with its data.
    """
    build_view_maker(cfg)
    with torch.device("meta"):
        check_backbone(cfg, build_trunk(cfg))
    data = open_data(cfg, opened)
    check_images(cfg, data.train)
    check_kinds(cfg.DATASETS.TRAIN, data.train.files())
    steps = len(data.train) // cfg.SOLVER.BATCH_SIZE
    warmup_steps(cfg, steps, total_steps(cfg, steps))
    if data.monitor:
        check_monitor(*data.monitor)
        for name, monitored in zip((cfg.DATASETS.KNN_TRAIN, cfg.DATASETS.KNN_TEST), data.monitor):
            check_kinds(name, monitored.files())
    return data


def build_training(
    cfg: CfgNode, device: torch.device, images: ImageDataset | None = None
) -> Training:
    """Builds the networks, the data and the optimizer of one process, at step 0.

    Args:
        images: the training images, if they are already open.
    """
    distributed.seed_everything(cfg.SEED)
    images = train_images(cfg) if images is None else images
    if distributed.is_main():
        logger.info("training images of %s", images.describe(cfg.DATASETS.TRAIN))
    if note := queue_note(cfg, len(images)):
        logger.warning(note)
    method = build_method(cfg, num_classes=len(images.classes))
    method = method.to(device).to(memory_format=torch.channels_last)
    convert_norms(cfg, method, device)
    if cfg.SOLVER.COMPILE:
        compile_network(method.trunk)
    loader = build_loader(cfg, images)
    total = total_steps(cfg, loader.steps_per_epoch)
    return Training(
        method=method,
        model=distributed.distribute(method, static=cfg.SOLVER.ACCUMULATE == 1),
        optimizer=build_solver(cfg, method),
        lr_at=build_schedule(cfg, loader.steps_per_epoch),
        loader=loader,
        make_views=build_view_maker(cfg),
        branches=branches(cfg),
        guard=StepGuard(method, cfg.SOLVER.MAX_SKIPPED_STEPS),
        device=device,
        total_steps=total,
        batch_size=cfg.SOLVER.BATCH_SIZE,
        seed=cfg.SEED,
        amp=amp_dtype(device) if cfg.SOLVER.BF16 else None,
        base_lr=scaled_lr(cfg.SOLVER.LR_PER_256, cfg.SOLVER.BATCH_SIZE),
        weight_decay_at=build_weight_decay(cfg, total),
        clip_norm=cfg.SOLVER.CLIP_NORM,
        parts=cfg.SOLVER.ACCUMULATE,
        side=SideStream(device) if cfg.SOLVER.SIDE_STREAM and device.type == "cuda" else None,
    )


def convert_norms(cfg: CfgNode, method: Method, device: torch.device) -> None:
    """Replaces the method's batch norms by norms over the global batch, or over groups of
    METHOD.BN_GROUP images. This is also needed if a process has only one group of images: a branch
    of several views passes as several groups, as it does on one GPU."""
    if cfg.METHOD.BN_GROUP == 0:
        convert_sync_batchnorm(method, device)
    else:
        convert_group_batchnorm(method, cfg.METHOD.BN_GROUP)


def build_solver(cfg: CfgNode, method: Method) -> Optimizer:
    """Returns the optimizer over the method's trainable parameters."""
    solver = cfg.SOLVER
    bias_lr = solver.BIAS_LR_PER_256
    rules = GroupRules(
        exclude_norm_and_bias=solver.EXCLUDE_NORM_AND_BIAS,
        bias_lr_ratio=bias_lr / solver.LR_PER_256 if bias_lr else 1.0,
        constant=tuple(method.constant_rate()) if solver.CONSTANT_PREDICTOR_LR else (),
        without_decay=tuple(method.without_decay()),
    )
    return build_optimizer(
        param_groups(method, solver.WEIGHT_DECAY, rules),
        solver.OPTIMIZER,
        lr=scaled_lr(solver.LR_PER_256, solver.BATCH_SIZE),
        momentum=solver.MOMENTUM,
        betas=tuple(solver.BETAS),
        trust_coefficient=solver.TRUST_COEFFICIENT,
        momentum_holds_lr=solver.MOMENTUM_HOLDS_LR,
    )


def build_schedule(cfg: CfgNode, steps_per_epoch: int) -> Callable[[int], float]:
    """Returns the function that gives a step's learning rate.

    Raises InputError if the warmup is as long as the run.
    """
    solver = cfg.SOLVER
    total = total_steps(cfg, steps_per_epoch)
    common: dict[str, Any] = {
        "base_lr": scaled_lr(solver.LR_PER_256, solver.BATCH_SIZE),
        "total_steps": total * solver.STRETCH,
        "warmup_steps": warmup_steps(cfg, steps_per_epoch, total),
        "warmup_start": solver.WARMUP_START,
    }
    if solver.SCHEDULE == "step":
        schedule = partial(warmup_steps_down, milestones=tuple(solver.MILESTONES), **common)
    else:
        schedule = partial(warmup_cosine, final_fraction=solver.FINAL_LR_FRACTION, **common)
    return by_epoch(schedule, steps_per_epoch) if solver.RATE_PER_EPOCH else schedule


def build_weight_decay(cfg: CfgNode, total: int) -> Callable[[int], float] | None:
    """Returns the function that gives a step's weight decay; None if it does not change."""
    start, end = cfg.SOLVER.WEIGHT_DECAY, cfg.SOLVER.FINAL_WEIGHT_DECAY
    if end < 0:
        return None
    return lambda step: half_cosine(step / (total * cfg.SOLVER.STRETCH), start, end)


def total_steps(cfg: CfgNode, steps_per_epoch: int) -> int:
    """Returns the number of steps of the run."""
    return cfg.SOLVER.MAX_STEPS or cfg.SOLVER.EPOCHS * steps_per_epoch


def warmup_steps(cfg: CfgNode, steps_per_epoch: int, total_steps: int) -> int:
    """Returns steps of the linear warmup. Raises InputError if they are as many as those of the
    run.
    """
    steps = cfg.SOLVER.WARMUP_STEPS or round(cfg.SOLVER.WARMUP_EPOCHS * steps_per_epoch)
    if steps >= total_steps:
        raise InputError(
            f"the warmup of {steps} steps fills the run of {total_steps} steps; lower "
            "SOLVER.WARMUP_EPOCHS (or set SOLVER.WARMUP_STEPS)"
        )
    return steps


def checkpoint_facts(cfg: CfgNode) -> dict[str, Any]:
    """Returns the entries of a checkpoint that training does not change."""
    return {
        "method": cfg.METHOD.NAME,
        "backbone": cfg.BACKBONE.NAME,
        "config": dump_yaml(cfg),
        "preprocess": transfer_preprocess(cfg).to_dict(),
    }


def build_callbacks(
    cfg: CfgNode, folder: Path, facts: dict[str, Any], data: PretrainingData, resume_step: int
) -> list[Callback]:
    """Returns the callbacks in the order of their calls: monitor, metrics, progress bar, views.png,
    checkpoints. The rows of a step are written before the checkpoint of the step, so that a kill
    loses none.
    """
    writer = MetricsWriter(folder, resume_step, loggers=cfg.LOGGER)
    metrics = Metrics(writer, cfg.LOG.EVERY_STEPS, can_collapse=METHODS[cfg.METHOD.NAME].pairs)
    callbacks: list[Callback] = [metrics, ProgressBar(), ViewPanel(folder)]
    if data.monitor:
        callbacks.insert(0, build_monitor(cfg, data.monitor, writer))
    checkpoint = Checkpoint(
        folder,
        facts,
        writer,
        every_epochs=cfg.CHECKPOINT.EVERY_EPOCHS,
        every_steps=cfg.CHECKPOINT.EVERY_STEPS,
        keep_every_epochs=cfg.CHECKPOINT.KEEP_EVERY_EPOCHS,
    )
    callbacks.append(checkpoint)
    if cfg.PRECISE_BN.IMAGES > 0:
        callbacks.append(build_precise_bn(cfg, folder, facts, data.train))
    return callbacks


def needs_precise_bn(cfg: CfgNode, folder: Path) -> bool:
    """Returns whether a finished run lacks the file of its statistics. This is always true for a
    run without batch norm, which then looks for batch norms again.
    """
    return cfg.PRECISE_BN.IMAGES > 0 and not (folder / PRECISE_BN_FILE).is_file()


def build_precise_bn(
    cfg: CfgNode, folder: Path, facts: dict[str, Any], images: ImageDataset
) -> PreciseBN:
    """Returns the callback that estimates batch-norm statistics on training images after the last
    step.
    """
    return PreciseBN(
        folder,
        facts,
        images,
        transfer_preprocess(cfg),
        build_trunk=lambda: build_trunk(cfg),
        size=cfg.VIEWS.SIZE,
        num_images=cfg.PRECISE_BN.IMAGES,
        batch_size=cfg.PRECISE_BN.BATCH_SIZE,
        seed=cfg.SEED,
    )


def build_monitor(
    cfg: CfgNode, sets: tuple[ImageDataset, ImageDataset], writer: MetricsWriter
) -> KnnMonitor:
    """Returns the kNN monitor of a bank and queries, with the input that the weights expect
    downstream.
    """
    return KnnMonitor(
        *sets,
        writer,
        transfer_preprocess(cfg),
        size=cfg.VIEWS.SIZE,
        every_epochs=cfg.KNN.EVERY_EPOCHS,
        k=cfg.KNN.K,
        temperature=cfg.KNN.TEMPERATURE,
        limits=(cfg.KNN.TRAIN_LIMIT, cfg.KNN.TEST_LIMIT),
        batch_size=cfg.KNN.BATCH_SIZE,
        can_collapse=METHODS[cfg.METHOD.NAME].pairs,
    )
