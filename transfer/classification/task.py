"""Classification as a task: one protocol on one checkpoint.

Checks and scores are in `protocols`, one module per protocol. Trials differ in their seed, which
decides the order of SGD and the held-out images of a linear probe, and the weights themselves if
they are `random`. kNN on given weights has no random part, so all its trials agree.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from fvcore.common.config import CfgNode

from pretrain.common.config import load_config
from pretrain.common.distributed import is_main, process_device
from pretrain.common.errors import InputError
from pretrain.common.lookup import find
from pretrain.data.class_names import readable_class_names
from transfer.checkpoints.networks.vit_architectures import parse_vit
from transfer.checkpoints.read import read_weights
from transfer.checkpoints.weights import Weights
from transfer.classification.artifacts import write_artifacts
from transfer.classification.crops import ImageTransform
from transfer.classification.defaults import ROLES, get_defaults, reads, uses_tf32
from transfer.classification.features.extract import Extracted, extract_splits
from transfer.classification.features.formats import with_formats
from transfer.classification.protocols.all_protocols import PROTOCOLS
from transfer.classification.protocols.protocol import (
    ClassificationJob,
    OnFeatures,
    check_shared_keys,
)
from transfer.classification.protocols.train_on_crops import evaluations, iterations
from transfer.classification.score import Score
from transfer.classification.splits import Split
from transfer.classification.training.choose_rate import FILE as RATES_FILE
from transfer.classification.training.image_list import list_sha256, read_list
from transfer.classification.training.images import check_batch
from transfer.results.record import takes_fewer
from transfer.trials.task import Cost, Outcome, Request, Task, Trial

logger = logging.getLogger(__name__)
ENGINE = "torch"


class ClassificationTask(Task[ClassificationJob]):
    """Runs kNN, linear probes, SVMs, few labels, and training on random crops."""

    name = "classification"
    roles = ROLES
    saved = ("training.pth", "lr_*/training.pth")
    marks = (RATES_FILE,)
    untrained = ("BACKBONE.NAME",)

    def load_config(self, config: str, overrides: Sequence[str] = ()) -> CfgNode:
        """See `Task.load_config`."""
        return load_config(config, get_defaults(), overrides, "classification")

    def decided(self, cfg: CfgNode, earlier: CfgNode) -> CfgNode:
        """Takes over values that may differ: `auto`'s formats, and the path of an image list."""
        cfg = cfg.clone()
        cfg.defrost()
        for key, value in cfg.FEATURES.items():
            if value == "auto":
                cfg.FEATURES[key] = earlier.FEATURES[key]
        if _is_same_list(cfg, earlier):
            cfg.TRAIN.SPLIT_LIST = earlier.TRAIN.SPLIT_LIST
        cfg.freeze()
        return cfg

    def task_in_records(self, cfg: CfgNode) -> str:
        """Returns the name of the protocol: each protocol has different metrics."""
        return cfg.PROTOCOL.NAME

    def identity(self, job: ClassificationJob) -> str:
        """Returns the protocol's sha256, which includes the content of a list of images."""
        return job.identity

    def tf32_key(self, cfg: CfgNode) -> str:
        """Returns TRAIN.TF32, of the protocols that train on random crops."""
        return "TRAIN.TF32" if uses_tf32(cfg) else ""

    def backbone_name(self, cfg: CfgNode) -> None:
        """Returns None: any backbone can be scored."""
        return None

    def is_shortened(self, job: ClassificationJob) -> bool:
        """Returns whether the job is shorter than its config file says.

        It is if it trains on random crops for fewer epochs or with a different batch size, or on
        fewer images of a class.
        """
        cfg = job.cfg
        if not reads(cfg, "TRAIN"):
            return False
        full = self.load_config(job.request.config)
        fewer = takes_fewer(cfg.DATASETS.LIMIT_PER_CLASS, full.DATASETS.LIMIT_PER_CLASS)
        other_batch = cfg.SOLVER.BATCH_SIZE != full.SOLVER.BATCH_SIZE
        return fewer or other_batch or cfg.SOLVER.EPOCHS < full.SOLVER.EPOCHS

    def check_processes(self, cfg: CfgNode, processes: int) -> None:
        """Raises InputError unless the batch of random crops divides among the processes."""
        if reads(cfg, "TRAIN"):
            check_batch(cfg.SOLVER.BATCH_SIZE, processes)

    def describe_batch(self, cfg: CfgNode, config: str, processes: int) -> str:
        """Returns the images per forward pass, and the batch size and rates of training."""
        solver, loader = cfg.SOLVER, cfg.DATALOADER
        text = f"{loader.BATCH_SIZE} images per forward pass"
        if processes > 1:
            text += f" on each of {processes} processes"
        if reads(cfg, "SOLVER"):
            rates = ", ".join(f"{rate * solver.BATCH_SIZE / 256:g}" for rate in solver.LR_PER_256)
            text += f"; head: batch {solver.BATCH_SIZE}, learning rates {rates}"
        return text

    def cost(self, job: ClassificationJob, processes: int) -> Cost:
        """Returns the cost: iterations count training on random crops; features only batches."""
        steps = iterations(job.cfg, len(job.train_set))
        batch_size = job.cfg.DATALOADER.BATCH_SIZE * processes
        return Cost(steps, batch_size, evaluations(job.cfg))

    def open_data(self, request: Request, *, scan: bool = True) -> ClassificationJob:
        """Opens both splits as the protocol needs them; returns them with the config."""
        cfg = self.load_config(request.config, request.overrides)
        check_shared_keys(cfg)
        node = cfg.PROTOCOL
        protocol = find(node.NAME, PROTOCOLS, "protocol", "PROTOCOL.NAME")
        sizes = (node.RESIZE, node.IMAGE_SIZE, node.INTERPOLATION)
        squash = reads(cfg, "SVM") and cfg.SVM.SQUASH
        transform = ImageTransform(*sizes, squash=squash, gray=node.GRAY)
        device = process_device()
        cfg = with_formats(cfg, device)
        data = protocol.check(cfg, request.trials if request.heads_exist else 0)
        whole = data.drawn_from
        return ClassificationJob(
            request,
            cfg,
            data.train,
            data.test,
            transform,
            device,
            ROLES.sha256(data.identity),
            data.drawn,
            drawn_from=None if whole is None else lambda: whole,
            heads=data.heads,
        )

    def read_weights(self, job: ClassificationJob, seed: int) -> Weights:
        """Reads the weights of any backbone. BACKBONE.NAME only counts for `random` weights.

        Raises:
            InputError: the image size is not a multiple of a ViT's patch size.
        """
        source, cfg = job.request.opened, job.cfg
        backbone = (cfg.BACKBONE.NAME or None) if source.is_random else None
        found = read_weights(source, backbone=backbone, seed=seed)
        vit, size = parse_vit(found.backbone), cfg.PROTOCOL.IMAGE_SIZE
        if vit is not None and size % vit.patch_size:
            raise InputError(
                f"PROTOCOL.IMAGE_SIZE {size} must be a multiple of the {vit.patch_size} px patches "
                f"of {found.backbone}"
            )
        return found

    def describe(self, job: ClassificationJob) -> list[str]:
        """Returns lines with the numbers of images and classes."""
        return [
            f"training images of {job.train_set.describe()}",
            f"test images of {job.test_set.describe()}",
        ]

    def run_trial(self, job: ClassificationJob, trial: Trial) -> Outcome | None:
        """See `Task.run_trial`."""
        weights = self.weights_of_trial(job, trial)
        protocol = PROTOCOLS[job.cfg.PROTOCOL.NAME]
        if not isinstance(protocol, OnFeatures):
            score = protocol.score(job, trial, weights)
            seconds = time.perf_counter() - trial.begin + score.seconds_before
            return _outcome(job, trial, weights, score, seconds) if is_main() else None
        begin = time.perf_counter()
        if job.kept.extracted is None or job.kept.extracted.sha256 != weights.sha256:
            job.kept.extracted = _extract(job, weights)
        extracted, took = job.kept.extracted, time.perf_counter() - begin
        if not is_main():
            return None
        score = protocol.score(job, extracted.bank, extracted.queries, trial.seed)
        score = replace(score, metrics={**score.metrics, **extracted.quality})
        # A trial's cost is the cost of running only this trial, also if features exist already.
        seconds = time.perf_counter() - trial.begin - took + extracted.seconds
        job.begin_folder(trial, weights)
        return _outcome(job, trial, weights, score, seconds, extracted)


def _is_same_list(one: CfgNode, other: CfgNode) -> bool:
    """Returns whether TRAIN.SPLIT_LIST of two configs names the same images, at any path."""
    lists = [(cfg.TRAIN.SPLIT_LIST, cfg.TRAIN.SPLIT_LINES) for cfg in (one, other)]
    if not all(source for source, _ in lists):
        return False
    try:
        return len({list_sha256(read_list(source, lines)) for source, lines in lists}) == 1
    except InputError:  # one of them does not exist
        return False


def _extract(job: ClassificationJob, weights: Weights) -> Extracted:
    """Extracts the features of both splits, and measures their quality."""
    cfg = job.cfg
    if not cfg.CACHE_DIR:
        logger.info("no CACHE_DIR: features stay in memory; a resumed run extracts them again")
    return extract_splits(
        weights,
        job.train_set,
        job.test_set,
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


def _outcome(
    job: ClassificationJob,
    trial: Trial,
    weights: Weights,
    score: Score,
    seconds: float,
    extracted: Extracted | None = None,
) -> Outcome:
    """Returns the score with the artifacts that it writes into the trial's folder."""
    names = [job.test_set.images.name(index) for index in range(len(job.test_set))]
    # The windows of an SVM's feature map give 4 times the dimensions.
    spectrum = extracted is not None and not reads(job.cfg, "SVM")
    artifacts = write_artifacts(
        trial.folder,
        score,
        names=names,
        features=extracted.queries.values if extracted is not None and spectrum else None,
        draws=job.cfg.REPLICATES,
        class_names=_class_names(job.test_set, names[0]),
    )
    return Outcome(
        weights=weights,
        engine=ENGINE,
        engine_version=torch.__version__,
        metrics=score.metrics,
        per_class=score.per_class,
        artifacts=artifacts,
        curve=score.curve,
        seconds=seconds,
        on_gpu=job.device.type == "cuda",
        views_seen=_extracted_views(job) if score.views is None else score.views,
        protocol=score.protocol,
    )


def _class_names(test_set: Split, first: str) -> dict[str, str]:
    """Returns readable names of the classes; {} for images with several labels."""
    if test_set.labels.ndim > 1:
        return {}
    its_class = test_set.classes[int(test_set.labels[0])]
    return readable_class_names(first, its_class, test_set.classes)


def _extracted_views(job: ClassificationJob) -> int:
    """Returns the number of extracted images, including crops for the features' quality."""
    train, test = len(job.train_set), len(job.test_set)
    return train + test + 2 * min(job.cfg.QUALITY.IMAGES, test)
