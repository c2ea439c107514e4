"""One classification protocol on one checkpoint: config and weights in, trial_T/record.json out.

What each protocol checks and scores is in its module of `protocols`. Trials differ in their seed:
SGD's order and the held-out images of a linear probe, and the weights themselves if they are
`random`. kNN on given weights draws nothing: its trials agree.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode

from pretrain.common.config import dump_yaml, load_config
from pretrain.common.distributed import (
    barrier,
    close_distributed,
    init_distributed,
    is_main,
    world_size,
)
from pretrain.common.errors import InputError
from pretrain.common.logs import setup_logging
from pretrain.common.lookup import find
from transfer.checkpoints.networks.vit_architectures import parse_vit
from transfer.checkpoints.read import RANDOM, read_weights
from transfer.checkpoints.weights import Weights, default_name
from transfer.classification.artifacts import write_artifacts
from transfer.classification.crops import ImageTransform
from transfer.classification.defaults import ROLES, get_defaults, reads
from transfer.classification.features.extract import Extracted, extract_splits
from transfer.classification.features.formats import with_formats
from transfer.classification.job import Job, Request
from transfer.classification.protocols.all_protocols import PROTOCOLS
from transfer.classification.protocols.protocol import Training, check_shared_keys
from transfer.classification.score import Score
from transfer.results.record import (
    FILE_NAME,
    make_record,
    read_record,
    takes_fewer,
    write_record,
)

logger = logging.getLogger(__name__)
ENGINE = "torch"


def classify(cfg: CfgNode, request: Request) -> list[Path]:
    """Runs the trials that have no record yet; returns the paths of all trials' records.

    Raises:
        InputError: what the data, the weights or the config lack.
    """
    device = init_distributed()
    try:
        setup_logging()
        return _run_trials(_prepare(cfg, request, device))
    finally:
        close_distributed()


def check(cfg: CfgNode, request: Request) -> Job:
    """Raises the InputErrors of `classify` that need no computing, before processes start."""
    job = _prepare(cfg, request, torch.device("cpu"))
    _read(cfg, request.weights, cfg.SEED)
    return job


def _prepare(cfg: CfgNode, request: Request, device: torch.device) -> Job:
    """Checks the config against the data before anything is computed."""
    check_shared_keys(cfg)
    node = cfg.PROTOCOL
    protocol = find(node.NAME, PROTOCOLS, "protocol", "PROTOCOL.NAME")
    sizes = (node.RESIZE, node.IMAGE_SIZE, node.INTERPOLATION)
    transform = ImageTransform(*sizes, squash=reads(cfg, "SVM") and cfg.SVM.SQUASH)
    cfg = with_formats(cfg, device)
    data = protocol.check(cfg, request.trials)
    identity = ROLES.sha256(data.identity)
    return Job(cfg, request, data.train, data.test, transform, device, identity, dict(data.drawn))


def _run_trials(job: Job) -> list[Path]:
    request = job.request
    if is_main():
        logger.info("training images of %s", job.train.describe())
        logger.info("test images of %s", job.test.describe())
    extracted: Extracted | None = None  # of the weights before
    records = []
    for trial in range(request.first_trial, request.trials):
        started, start = datetime.now(timezone.utc).isoformat(timespec="seconds"), time.time()
        seed = job.cfg.SEED + trial
        weights = _read(job.cfg, request.weights, seed)
        for line in weights.said if trial == request.first_trial else ():
            logger.warning("%s: %s", request.weights, line)
        folder = Path(request.output) / f"trial_{trial}"
        records.append(folder / FILE_NAME)
        if records[-1].exists():
            _check_same_run(records[-1], job, weights, seed)
            logger.info("%s is there already: skipped", records[-1])
            continue
        protocol = PROTOCOLS[job.cfg.PROTOCOL.NAME]
        if isinstance(protocol, Training):
            score = protocol.score(job, weights, seed, folder)
            seconds = time.time() - start + score.seconds_before
            if is_main():
                _write_trial(job, weights, score, None, trial, started, seconds)
            barrier()
            continue
        if extracted is None or extracted.sha256 != weights.sha256:
            begun = time.time()
            extracted = _extract(job, weights)
            start += time.time() - begun
        if is_main():
            score = protocol.score(job, extracted.bank, extracted.queries, seed)
            score = replace(score, metrics={**score.metrics, **extracted.quality})
            # A trial's cost is that of running it alone, also where the features are at hand
            seconds = time.time() - start + extracted.seconds
            _write_trial(job, weights, score, extracted.queries.values, trial, started, seconds)
        barrier()
    return records


def _extract(job: Job, weights: Weights) -> Extracted:
    """Extracts the features of both splits, and judges them."""
    cfg = job.cfg
    if not cfg.CACHE_DIR:
        logger.info("no CACHE_DIR: the features are kept in memory, and made again after a kill")
    return extract_splits(
        weights,
        job.train,
        job.test,
        job.transform,
        quality_images=cfg.QUALITY.IMAGES,
        device=job.device,
        batch_size=cfg.DATALOADER.BATCH_SIZE,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        cache_dir=cfg.CACHE_DIR,
        window=cfg.SVM.WINDOW if reads(cfg, "SVM") else 0,
        precision=cfg.FEATURES.PRECISION,
        storage=cfg.FEATURES.STORAGE,
    )


def _read(cfg: CfgNode, weights: str, seed: int) -> Weights:
    """The weights; a file's backbone is its own, whatever BACKBONE.NAME says for `random`.

    Raises InputError for a ViT whose patches do not tile the images.
    """
    backbone = (cfg.BACKBONE.NAME or None) if weights == RANDOM else None
    found = read_weights(weights, backbone=backbone, seed=seed)
    vit, size = parse_vit(found.backbone), cfg.PROTOCOL.IMAGE_SIZE
    if vit is not None and size % vit.patch_size:
        raise InputError(
            f"PROTOCOL.IMAGE_SIZE {size} must be a multiple of the {vit.patch_size} px patches of "
            f"{found.backbone}"
        )
    return found


def _write_trial(
    job: Job,
    weights: Weights,
    score: Score,
    features: torch.Tensor | None,
    trial: int,
    started: str,
    seconds: float,
) -> None:
    """Writes artifacts first and the record last: a record means that the trial is complete."""
    folder = Path(job.request.output) / f"trial_{trial}"
    svm = reads(job.cfg, "SVM")  # windows of a map make 4 x the dimensions
    artifacts = write_artifacts(
        folder,
        config=dump_yaml(job.cfg),
        weights=weights,
        source=job.request.weights,
        score=score,
        names=[job.test.images.name(index) for index in range(len(job.test))],
        features=None if svm else features,
        draws=job.cfg.REPLICATES,
    )
    record = make_record(
        weights=weights,
        name=job.request.name or default_name(weights, job.request.weights),
        task=job.cfg.PROTOCOL.NAME,
        dataset=job.test.name,
        protocol={**_protocol(job), **score.protocol},
        trial=trial,
        seed=job.cfg.SEED + trial,
        metrics=score.metrics,
        per_class=score.per_class,
        artifacts=artifacts,
        started=started,
        seconds=seconds,
        gpu_seconds=seconds * world_size() if job.device.type == "cuda" else 0.0,
        views_seen=_views(job) if score.views is None else score.views,
        status="shortened" if shortened(job.request, job.cfg) else "done",
    )
    write_record(folder, record)


def shortened(request: Request, cfg: CfgNode) -> bool:
    """Whether the overrides train on random crops for less than the config file says: fewer epochs,
    another batch, or fewer images of a class."""
    if not request.config or not reads(cfg, "TRAIN"):
        return False
    full = load_config(request.config, get_defaults(), (), "classification")
    fewer = takes_fewer(cfg.DATASETS.LIMIT_PER_CLASS, full.DATASETS.LIMIT_PER_CLASS)
    other_batch = cfg.SOLVER.BATCH_SIZE != full.SOLVER.BATCH_SIZE
    return fewer or other_batch or cfg.SOLVER.EPOCHS < full.SOLVER.EPOCHS


def _views(job: Job) -> int:
    """Images that were extracted, and crops for the statistics of features."""
    return len(job.train) + len(job.test) + 2 * min(job.cfg.QUALITY.IMAGES, len(job.test))


def _protocol(job: Job) -> dict[str, Any]:
    return {
        "name": job.request.protocol,
        "config_sha256": job.identity,
        "engine": ENGINE,
        "engine_version": torch.__version__,
        "overrides": list(job.request.overrides),
    }


def _check_same_run(path: Path, job: Job, weights: Weights, seed: int) -> None:
    """Raises InputError unless the record in `path` is of this protocol, weights and seed."""
    record = read_record(path)
    if record["checkpoint"]["sha256"] != weights.sha256:
        raise InputError(f"{path} is of other weights; give another --output")
    if record["protocol"]["config_sha256"] != job.identity:
        raise InputError(f"{path} is of another config; give another --output")
    if record["seed"] != seed:
        raise InputError(f"{path} is of seed {record['seed']}, not {seed}; give another --output")
