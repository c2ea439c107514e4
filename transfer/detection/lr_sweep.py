"""Chooses the learning rate for each checkpoint: short runs on a part of the training images, then
the full run. The rate with the best AP on the held-out part is taken. One fixed rate can rank
checkpoints wrongly. A swept result is of a different protocol than one at a fixed rate, since the
node is part of the config's identity.
"""

from __future__ import annotations

import json
import logging
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from fvcore.common.config import CfgNode

from pretrain.common.checkpoint import atomic_write_text
from pretrain.common.distributed import barrier, gather_objects, is_main
from pretrain.common.errors import InputError
from transfer.checkpoints.weights import Weights
from transfer.datasets.samples import DetectionSet, images_of
from transfer.detection.config import changed
from transfer.detection.engine import Engine
from transfer.detection.evaluation.predictions import Predictions
from transfer.training.files import forget_last_checkpoint, read_tried

FILE_NAME, FOLDER = "lr_sweep.json", "lr_sweep"
METRIC = "bbox/AP"

logger = logging.getLogger(__name__)

Score = Callable[[DetectionSet, Sequence[Predictions], Path], dict[str, float]]


def check_sweep(cfg: CfgNode) -> None:
    """Raises InputError for a TRANSFER.LR_SWEEP that cannot run; an empty RATES means no sweep."""
    node = cfg.TRANSFER.LR_SWEEP
    if not node.RATES:
        return
    if min(node.RATES) <= 0 or len(set(node.RATES)) != len(node.RATES):
        raise InputError(
            f"TRANSFER.LR_SWEEP.RATES {tuple(node.RATES)} must be different numbers above 0"
        )
    if not 0 < node.MAX_ITER <= cfg.SOLVER.MAX_ITER:
        raise InputError(
            f"TRANSFER.LR_SWEEP.MAX_ITER {node.MAX_ITER} must be from 1 to SOLVER.MAX_ITER "
            f"{cfg.SOLVER.MAX_ITER}"
        )
    if not 0 < node.HELD_OUT < 1:
        raise InputError(f"TRANSFER.LR_SWEEP.HELD_OUT {node.HELD_OUT} must be between 0 and 1")


def iterations_of(cfg: CfgNode) -> int:
    """Returns the iterations of a trial, including the short runs."""
    node = cfg.TRANSFER.LR_SWEEP
    return cfg.SOLVER.MAX_ITER + len(node.RATES) * node.MAX_ITER


def split(train_set: DetectionSet, share: float, seed: int) -> tuple[DetectionSet, DetectionSet]:
    """Returns (part to train on, held-out part): a random `share` of the images that have objects.

    The draw depends only on the seed and the images' ids, not on the order of the files.

    Raises:
        InputError: one of the parts would be empty.
    """
    rows = train_set.trainable_rows()
    ids = [str(image.image_id) for image in images_of(train_set.samples)]
    ranked = sorted(rows.tolist(), key=ids.__getitem__)
    chosen = random.Random(seed).sample(range(len(ranked)), round(share * len(ranked)))
    held = np.isin(rows, [ranked[index] for index in chosen])
    if held.all() or not held.any():
        raise InputError(
            f"TRANSFER.LR_SWEEP.HELD_OUT {share} of {len(rows)} images leaves nothing to train "
            "on or nothing to judge on; change it"
        )
    return train_set.part(rows[~held]), train_set.part(rows[held])


def short_config(cfg: CfgNode, rate: float) -> CfgNode:
    """Returns the config of one short run: with its rate, and the complete schedule within
    MAX_ITER.
    """
    iterations = cfg.TRANSFER.LR_SWEEP.MAX_ITER
    factor = iterations / cfg.SOLVER.MAX_ITER
    return changed(
        cfg,
        {
            "SOLVER.BASE_LR": rate,
            "SOLVER.MAX_ITER": iterations,
            "SOLVER.STEPS": tuple(round(step * factor) for step in cfg.SOLVER.STEPS),
            "SOLVER.WARMUP_ITERS": round(cfg.SOLVER.WARMUP_ITERS * factor),
            "SOLVER.CHECKPOINT_PERIOD": iterations,
            "TEST.EVAL_PERIOD": 0,
        },
    )


def choose_rate(
    engine: Engine,
    cfg: CfgNode,
    *,
    weights: Weights,
    train_set: DetectionSet,
    folder: Path,
    score: Score,
    resume: bool = False,
) -> float:
    """Trains once per rate and returns the best one; all processes call it alike.

    Args:
        resume: a rate whose training was asked to end continues from there.

    Finished rates are in `folder`/lr_sweep.json and are not run again. A run whose loss is not
    finite has no AP and cannot win. If two are equal, the lower rate wins.

    Raises:
        InputError: no rate led to an AP.
    """
    rest, held_out = split(train_set, cfg.TRANSFER.LR_SWEEP.HELD_OUT, cfg.SEED)
    record = folder / FILE_NAME
    for rate in cfg.TRANSFER.LR_SWEEP.RATES:
        if _key(rate) in _read_scores(record):
            continue
        short = short_config(cfg, rate)
        value = _run(engine, short, weights, rest, held_out, folder, score, resume)
        if is_main():
            found = {**_read_scores(record), _key(rate): value}
            atomic_write_text(record, json.dumps(found, indent=1))
            shown = "a loss that is not finite" if value is None else f"{METRIC} {value:.2f}"
            logger.info("learning rate %s: %s on %d held-out images", rate, shown, len(held_out))
        barrier()
    # The scores that the first process wrote: a different machine may still see an older file.
    scores = gather_objects(_read_scores(record))[0]
    judged = [r for r in cfg.TRANSFER.LR_SWEEP.RATES if scores[_key(r)] is not None]
    if not judged:
        raise InputError("TRANSFER.LR_SWEEP: no learning rate led to an AP; give lower RATES")
    best = max(sorted(judged), key=lambda rate: scores[_key(rate)])
    logger.info("learning rate %s chosen from %s", best, tuple(cfg.TRANSFER.LR_SWEEP.RATES))
    return best


def _read_scores(record: Path) -> dict[str, float | None]:
    """Returns the AP of each rate that was tried, None if its loss was not finite. A value of a
    different type is left out, and its rate is tried again.
    """
    return {
        rate: value
        for rate, value in read_tried(record).items()
        if value is None or type(value) in (int, float) and math.isfinite(value)
    }


def _run(
    engine: Engine,
    cfg: CfgNode,
    weights: Weights,
    rest: DetectionSet,
    held_out: DetectionSet,
    folder: Path,
    score: Score,
    resume: bool,
) -> float | None:
    """Returns the AP of one rate on the first process (None on others, and if training
    diverged).
    """
    output = folder / FOLDER / _key(cfg.SOLVER.BASE_LR)
    output.mkdir(parents=True, exist_ok=True)
    try:
        fitted = engine.fit(
            changed(cfg, {"OUTPUT_DIR": str(output)}),
            weights=weights,
            train_set=rest,
            test_set=held_out,
            output=output,
            resume=resume,
            evaluate=lambda predictions, iteration: {},
        )
    except FloatingPointError as error:
        logger.warning("learning rate %s: %s", cfg.SOLVER.BASE_LR, error)
        return None
    predictions = engine.predict(cfg, model_file=fitted.model_file, test_set=held_out)
    if not is_main():
        return None
    value = score(held_out, predictions, output)[METRIC]
    fitted.model_file.unlink(missing_ok=True)  # its score is known, and nobody fine-tunes from it
    forget_last_checkpoint(output)
    return None if math.isnan(value) else value


def _key(rate: float) -> str:
    return f"{rate:g}"
