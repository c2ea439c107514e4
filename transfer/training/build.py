"""Sets up and runs fine-tuning from a config's SOLVER keys: optimizer, schedule, batches.

Keys and their meanings are Detectron2's. The tasks that train by iterations (detection,
segmentation) provide a model and batches; `begin_training` and `train_to_end` do the rest. No other
module in this folder reads a config.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from pretrain.common.distributed import (
    distribute,
    from_main,
    process_device,
    rank,
    seed_everything,
    world_size,
)
from pretrain.common.errors import InputError
from pretrain.data.fingerprint import Fingerprint
from transfer.checkpoints.weights import Weights
from transfer.training.clipping import Clipping
from transfer.training.loop import Periodic, train
from transfer.training.metrics import open_metrics
from transfer.training.optimizer import (
    DETECTORS_NETWORK,
    build_optimizer,
    convnext_layer_factor,
    param_groups,
    vit_layer_factor,
)
from transfer.training.precision import DTYPES, Precision
from transfer.training.sampler import GroupedBatches
from transfer.training.schedule import Schedule, check_steps
from transfer.training.state import TrainingState

Model = TypeVar("Model", bound=nn.Module)

# What the names of timm's parameters begin with: of a detector's ConvNet, and of the ViT or the
# ConvNet of a segmenter, which has no pyramid around it.
TIMM_NETWORKS = ("backbone.bottom_up.network.", "backbone.blocks.", "backbone.stages.")


def begin_training(
    cfg: CfgNode,
    build_model: Callable[[], Model],
    output: Path,
    *,
    weights: Weights,
    classes: Sequence[str],
    resume: bool,
    load: Callable[[Model, Mapping[str, Tensor]], object],
    data: Callable[[], Fingerprint] | None = None,
) -> TrainingState:
    """Seeds the process, builds the model on its device with its optimizer, and resumes.

    Args:
        build_model: returns the model with its initial weights; called after seeding.
        weights: the initial weights; their facts are stored with the model.
        classes: names of the predictors' classes, written into the model's files.
        resume: continue from the folder's last checkpoint, if it has one.
        load: loads a checkpoint's state_dict into the model.
        data: returns the fingerprint of the training images; only the first process calls it.
    """
    seed_everything(cfg.SEED + rank())
    torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
    model = build_model().to(process_device(cfg.MODEL.DEVICE))
    if cfg.TRANSFER.CHANNELS_LAST:
        model.to(memory_format=torch.channels_last)
    run = TrainingState(
        model,
        make_optimizer(cfg, model),
        output,
        weights=weights,
        max_iter=cfg.SOLVER.MAX_ITER,
        precision=make_precision(cfg),
        classes=classes,
        data=None if data is None else from_main(None, data),
    )
    if resume:
        run.restore(partial(load, model))
    return run


def train_to_end(
    cfg: CfgNode,
    run: TrainingState,
    batches: Iterator[list[dict[str, Any]]],
    evaluate: Callable[[int], dict[str, float]],
) -> None:
    """Trains from `run.start_iter` on, with metrics.json, checkpoints and evaluations in between.

    Args:
        batches: batches of this process, starting with iteration `run.start_iter`.
        evaluate: returns the model's metrics at an iteration.
    """
    with open_metrics(run.output, run.start_iter, cfg.TRANSFER.LOGGER) as metrics:

        def save(iteration: int) -> None:
            metrics.flush()  # the rows up to the checkpoint's iteration are on disk before it
            run.save(iteration)

        train(
            distribute(run.model),
            batches=batches,
            optimizer=run.optimizer,
            schedule=make_schedule(cfg),
            start_iter=run.start_iter,
            metrics=metrics,
            log_period=cfg.TRANSFER.LOG_PERIOD,
            precision=run.precision,
            accumulate=cfg.TRANSFER.ACCUMULATE,
            # Evaluate before saving: if the run is killed in between, it evaluates again.
            callbacks=[
                Periodic(
                    cfg.TEST.EVAL_PERIOD,
                    lambda iteration: metrics.write(iteration, **evaluate(iteration)),
                ),
                Periodic(cfg.SOLVER.CHECKPOINT_PERIOD, save),
            ],
            save=save,
        )


def make_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Returns SGD with Detectron2's parameter groups, or AdamW with the same groups and ViTDet's
    rates.

    Both clip gradients if the config asks for that.
    """
    solver = cfg.SOLVER
    groups = param_groups(
        model,
        weight_decay=solver.WEIGHT_DECAY,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
        base_lr=solver.BASE_LR,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        weight_decay_pos_embed=cfg.TRANSFER.WEIGHT_DECAY_POS_EMBED,
        layer_factor=layer_factor_of(model, cfg),
        flat_as_norms=TIMM_NETWORKS,
    )
    optimizer = build_optimizer(
        groups,
        name=cfg.TRANSFER.OPTIMIZER,
        base_lr=solver.BASE_LR,
        momentum=solver.MOMENTUM,
        nesterov=solver.NESTEROV,
    )
    clipping = make_clipping(cfg)
    if clipping is not None:
        clipping.add_to(optimizer)
    return optimizer


def make_clipping(cfg: CfgNode) -> Clipping | None:
    """Returns what clips gradients, None without SOLVER.CLIP_GRADIENTS; InputError for a wrong
    value.
    """
    node = cfg.SOLVER.CLIP_GRADIENTS
    return Clipping(node.CLIP_TYPE, node.CLIP_VALUE, node.NORM_TYPE) if node.ENABLED else None


def layer_factor_of(model: nn.Module, cfg: CfgNode) -> Callable[[str], float]:
    """Returns what the rates of a ViT's or a ConvNeXt's layers are multiplied by, from their
    names.
    """
    decay = cfg.TRANSFER.LR_LAYER_DECAY
    third = rf"backbone\.(?:{DETECTORS_NETWORK})?stages\.2\.blocks\.(\d+)\."
    if blocks := _count(model, third):
        return partial(convnext_layer_factor, decay=decay, blocks=blocks)
    depth = _count(model, r"backbone\.(?:net\.)?blocks\.(\d+)\.")
    return partial(vit_layer_factor, decay=decay, depth=depth)


def _count(model: nn.Module, pattern: str) -> int:
    """Returns the number of blocks whose parameters' names begin with the pattern."""
    places = [re.match(pattern, name) for name, _ in model.named_parameters()]
    return 1 + max((int(place[1]) for place in places if place), default=-1)


def make_schedule(cfg: CfgNode) -> Schedule:
    """Returns the schedule of the learning rate's factor over iterations."""
    solver = cfg.SOLVER
    return Schedule(
        name=solver.LR_SCHEDULER_NAME,
        max_iter=solver.MAX_ITER,
        steps=check_steps(solver.STEPS, solver.MAX_ITER),
        gamma=solver.GAMMA,
        warmup_iters=solver.WARMUP_ITERS,
        warmup_factor=solver.WARMUP_FACTOR,
        warmup_method=solver.WARMUP_METHOD,
        end_factor=solver.BASE_LR_END / solver.BASE_LR,
        power=cfg.TRANSFER.SEMANTIC.POLY_POWER,
        num_decays=solver.NUM_DECAYS,
        rescale=solver.RESCALE_INTERVAL,
    )


def make_precision(cfg: CfgNode) -> Precision:
    """Returns float32, or the dtype of SOLVER.AMP."""
    dtype = DTYPES[cfg.TRANSFER.AMP_DTYPE] if cfg.SOLVER.AMP.ENABLED else None
    return Precision(dtype, process_device(cfg.MODEL.DEVICE).type)


def batch_indices(
    cfg: CfgNode,
    wide: Sequence[bool],
    grouping: bool,
    start_batch: int,
    factors: Tensor | None = None,
) -> GroupedBatches:
    """Returns this process's share of the endless batches, starting at batch `start_batch`.

    Args:
        wide: for each image whether it is wider than high.
        grouping: whether wide images share batches only with wide ones.
        factors: how often each image comes in an epoch; None: once.

    Raises:
        InputError: a batch does not divide among the processes.
    """
    total, processes = cfg.SOLVER.IMS_PER_BATCH, world_size()
    if total % processes:
        raise InputError(
            f"SOLVER.IMS_PER_BATCH {total} is not a multiple of {processes} processes; set it to a "
            "multiple"
        )
    return GroupedBatches(
        wide,
        batch_size=total // processes,
        seed=cfg.SEED,
        rank=rank(),
        world_size=processes,
        grouping=grouping,
        start_batch=start_batch,
        factors=factors,
    )
