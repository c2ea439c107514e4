"""Adapts a config to the number of processes: batch, rate and iterations. One line of the log says
them, and whether the result is comparable with others of the config's protocol. The rule is
Detectron2's (SOLVER.REFERENCE_WORLD_SIZE, DefaultTrainer.auto_scale_workers), kept here so that
both engines follow it: the batch of a process stays what it was on the reference number of
    processes, the learning rate follows the whole batch, and everything counted in iterations is
    divided. 0, the default, keeps the whole batch, as the
published protocols do.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fvcore.common.config import CfgNode

from pretrain.common.errors import InputError
from transfer.detection.config import changed
from transfer.detection.roles import ROLES, batch_norms
from transfer.results.own_data import left_open

SHOWN = 4  # number of different keys that are written in full


def for_processes(cfg: CfgNode, processes: int) -> CfgNode:
    """Returns the config scaled to `processes`; REFERENCE_WORLD_SIZE then is `processes`. Raises
    InputError, naming the key, if a batch does not divide.
    """
    solver, reference = cfg.SOLVER, cfg.SOLVER.REFERENCE_WORLD_SIZE
    sweep = cfg.TRANSFER.LR_SWEEP
    if reference not in (0, processes):
        if solver.IMS_PER_BATCH % reference:
            raise InputError(
                f"SOLVER.IMS_PER_BATCH {solver.IMS_PER_BATCH} is not a multiple of "
                f"SOLVER.REFERENCE_WORLD_SIZE {reference}; change one of them"
            )
        scale = processes / reference
        cfg = changed(
            cfg,
            {
                "SOLVER.IMS_PER_BATCH": int(round(solver.IMS_PER_BATCH * scale)),
                "SOLVER.BASE_LR": solver.BASE_LR * scale,
                "SOLVER.MAX_ITER": int(round(solver.MAX_ITER / scale)),
                "SOLVER.WARMUP_ITERS": int(round(solver.WARMUP_ITERS / scale)),
                "SOLVER.STEPS": tuple(int(round(step / scale)) for step in solver.STEPS),
                "TEST.EVAL_PERIOD": int(round(cfg.TEST.EVAL_PERIOD / scale)),
                "SOLVER.CHECKPOINT_PERIOD": int(round(solver.CHECKPOINT_PERIOD / scale)),
                "SOLVER.REFERENCE_WORLD_SIZE": processes,
                "TRANSFER.LR_SWEEP.RATES": tuple(rate * scale for rate in sweep.RATES),
                "TRANSFER.LR_SWEEP.MAX_ITER": int(round(sweep.MAX_ITER / scale)),
            },
        )
        if cfg.SOLVER.MAX_ITER < 1:
            raise InputError(
                f"SOLVER.MAX_ITER {solver.MAX_ITER} leaves no iteration on {processes} processes "
                f"(SOLVER.REFERENCE_WORLD_SIZE {reference}); raise it"
            )
    micro_batches = processes * cfg.TRANSFER.ACCUMULATE
    if cfg.SOLVER.IMS_PER_BATCH % micro_batches:
        parts = f"{processes} {_processes(processes)}"
        if cfg.TRANSFER.ACCUMULATE > 1:
            parts += f" x {cfg.TRANSFER.ACCUMULATE} micro-batches (TRANSFER.ACCUMULATE)"
        raise InputError(
            f"SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH} is not a multiple of {parts}; "
            "change one of them"
        )
    return cfg


def training_line(cfg: CfgNode, shipped: CfgNode, name: str, processes: int) -> str:
    """Returns the line for the log: batch, rate, iterations, processes, comparability.

    Args:
        cfg: as loaded, not yet scaled.
        shipped: the config file alone, without the command's overrides.
        name: the protocol's name.
    """
    scaled = for_processes(cfg, processes)
    solver, accumulate = scaled.SOLVER, scaled.TRANSFER.ACCUMULATE
    per_step = solver.IMS_PER_BATCH // (processes * accumulate)
    shape = f"{processes} {_processes(processes)} x {per_step}"
    if accumulate > 1:
        shape += f" x {accumulate} accumulated"
    text = (
        f"effective batch {solver.IMS_PER_BATCH} ({shape}), learning rate {solver.BASE_LR:g}, "
        f"{solver.MAX_ITER} iterations; comparable with {name}: {_comparable(cfg, shipped, scaled)}"
    )
    norms = batch_norms(cfg)
    if norms:
        seen = per_step if norms == {"BN"} else per_step * processes
        text += f"; batch norm over {seen} {'image' if seen == 1 else 'images'}"
    return text


def _processes(count: int) -> str:
    return "process" if count == 1 else "processes"


def _comparable(cfg: CfgNode, shipped: CfgNode, scaled: CfgNode) -> str:
    found = list(differences(shipped, cfg))
    if found:
        listed = [f"{key} {_show(ours)} for {_show(theirs)}" for key, theirs, ours in found[:SHOWN]]
        if len(found) > SHOWN:
            listed.append(f"{len(found) - SHOWN} more")
        text = f"no, {', '.join(listed)}"
        if any(key == "TRANSFER.ACCUMULATE" for key, _, _ in found):
            text += "; accumulated micro-batches are not identical to a batch under batch norm"
        return text
    if scaled is not cfg:
        return f"yes, by Detectron2's scaling from {cfg.SOLVER.REFERENCE_WORLD_SIZE} processes"
    return "yes"


def _show(value: Any) -> str:
    """Returns a value without its outer parentheses."""
    return f"[{', '.join(map(_show, value))}]" if isinstance(value, tuple) else str(value)


def differences(one: CfgNode, other: CfgNode) -> Iterator[tuple[str, Any, Any]]:
    """Returns (key, value in one, value in other) of all keys that make the two different
    protocols.

    The data is left out if `one`, the config as shipped, leaves it to its user.
    """
    first, second = map(ROLES.protocol, (one, other))
    for key in sorted({*first, *second} - left_open(first)):
        values = [_fixed(found.get(key, "off")) for found in (first, second)]
        if values[0] != values[1]:
            yield key, *values


def _fixed(value: Any) -> Any:
    return tuple(map(_fixed, value)) if isinstance(value, (list, tuple)) else value
