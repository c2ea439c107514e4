"""Probes the small pretrained network of a run directory: computes accuracies in percent.

Each network is probed on images in colour and on grey ones (both bank and queries). On each it is
probed four times: with batch-norm statistics of training and with re-estimated ones, and with the
high-pass filter on and off. Any backbone works, because trunks are built from the run's config.

Legend: N images of the bank, M queries, D features, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch
import yaml
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from pretrain.common.collapse_statistics import effective_rank, feature_std
from pretrain.common.knn import top_accuracy, weighted_knn
from pretrain.data.build import build_highpass
from pretrain.data.datasets import ImageDataset, open_images
from pretrain.data.preprocess import Preprocess
from pretrain.engine.monitor import LabelledImages, trunk_features
from pretrain.engine.precise_bn import FILE_NAME as PRECISE
from pretrain.methods.build import load_trunk
from transfer.classification.metrics import accuracy
from transfer.classification.protocols.linear import Solver, choose_lr, standardize_, train_heads

FILES = {"raw": "checkpoint.pth", "precise": PRECISE}
FILTERS = ("off", "on")
GRAY = "_gray"  # suffix of measures on grey images
K, TEMPERATURE = 20, 0.07  # DINO's eval_knn.py
SOLVER = Solver(epochs=50, batch_size=256)
RATES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)  # learning rates of the linear probe, per 256 images
HOLDOUT = 0.1


@dataclass(frozen=True)
class ProbeSet:
    """Labelled images (uint8, in memory) of the bank and of the queries."""

    bank: LabelledImages
    queries: LabelledImages
    classes: int


ProbeSets = Mapping[str, ProbeSet]  # "" in colour, GRAY without


def of_validation(cfg: CfgNode, limits: tuple[int, int] = (0, 0)) -> ProbeSets:
    """KNN_TRAIN against KNN_TEST; `limits` bound the images of each (0 = all)."""
    return _of_validation(cfg.DATASETS.KNN_TRAIN, cfg.DATASETS.KNN_TEST, cfg.VIEWS.SIZE, limits)


def of_held_out(cfg: CfgNode, limits: tuple[int, int] = (0, 0)) -> ProbeSets:
    """Returns the training images that LIMIT_PER_CLASS takes, against those that it leaves out."""
    sets = cfg.DATASETS
    return _of_held_out(sets.TRAIN, sets.LIMIT_PER_CLASS, cfg.VIEWS.SIZE, limits)


@lru_cache(maxsize=1)  # the runs of a suite are probed on the same images
def _of_validation(bank: str, queries: str, size: int, limits: tuple[int, int]) -> ProbeSets:
    return _read(open_images(bank), open_images(queries), size, limits)


@lru_cache(maxsize=1)
def _of_held_out(name: str, limit: int, size: int, limits: tuple[int, int]) -> ProbeSets:
    whole, taken = open_images(name), open_images(name, limit)
    kept = {taken.name(index) for index in range(len(taken))}
    rest = [index for index in range(len(whole)) if whole.name(index) not in kept]
    return _read(taken, whole.subset(rest), size, limits)


def _read(
    bank: ImageDataset, queries: ImageDataset, size: int, limits: tuple[int, int]
) -> ProbeSets:
    found = {}
    for name, gray in (("", False), (GRAY, True)):
        parts = [LabelledImages.read(d, size, n, gray) for d, n in zip((bank, queries), limits)]
        found[name] = ProbeSet(*parts, classes=len(bank.classes))
    return found


def probe_run(
    folder: Path, sets: ProbeSets, device: torch.device, seed: int, *, wanted_only: bool = False
) -> dict[str, float]:
    """Metrics `WHAT/STATISTICS/FILTER` of a finished run, such as `knn20_gray/precise/on`.

    WHAT is knn20, linear, feature_std or effective_rank, and the same on grey images (`GRAY`). A
    trunk without batch norm has only raw.

    Args:
        wanted_only: only re-estimated statistics, if there are some, and the filter as the weights
            expect it. This takes a quarter of the time.
    """
    metrics: dict[str, float] = {}
    present = [each for each, name in FILES.items() if (folder / name).is_file()]
    for statistics in present[-1:] if wanted_only else present:
        cfg = CfgNode(yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")))
        trunk, wanted = load_trunk(cfg, folder / FILES[statistics])
        trunk.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)
        own = "off" if wanted.highpass is None else "on"
        for choice in (own,) if wanted_only else FILTERS:
            highpass = (wanted.highpass or build_highpass(cfg)) if choice == "on" else None
            preprocess = replace(wanted, highpass=highpass)
            for colour, images in sets.items():
                values = probe(trunk, preprocess, images, device, seed)
                metrics.update(
                    {f"{key}{colour}/{statistics}/{choice}": v for key, v in values.items()}
                )
    return metrics


def probe(
    trunk: nn.Module, preprocess: Preprocess, images: ProbeSet, device: torch.device, seed: int
) -> dict[str, float]:
    """Returns the scores of a trunk's features, and two measures of their collapse."""
    bank, queries = (
        trunk_features(trunk, part.images, preprocess, device, 512)
        for part in (images.bank, images.queries)
    )
    return {
        **feature_scores(bank, queries, images, device, seed),
        "feature_std": feature_std(queries),
        "effective_rank": effective_rank(queries[:2000]),
    }


def feature_scores(
    bank: Tensor, queries: Tensor, images: ProbeSet, device: torch.device, seed: int
) -> dict[str, float]:
    """Weighted kNN, and a linear head whose learning rate is chosen on held-out bank images.

    Args:
        bank: features (N, D) of the bank's images, on the CPU; `queries`: (M, D) of the queries.
    """
    labels, wanted = images.bank.labels, images.queries.labels
    common = {"k": [K], "temperature": TEMPERATURE, "num_classes": images.classes}
    votes = weighted_knn(bank, labels, queries, **common)
    return {
        f"knn{K}": top_accuracy(votes[K], wanted),
        "linear": _linear(bank, labels, queries, wanted, images.classes, device, seed),
    }


def _linear(
    bank: Tensor,
    labels: Tensor,
    queries: Tensor,
    wanted: Tensor,
    classes: int,
    device: torch.device,
    seed: int,
) -> float:
    bank, queries = bank.to(device, copy=True), queries.to(device, copy=True)
    standardize_(bank, queries)
    labels, wanted = labels.to(device), wanted.to(device)
    common = {"num_classes": classes, "generator": torch.Generator().manual_seed(seed)}
    rate, _ = choose_lr(bank, labels, RATES, SOLVER, holdout=HOLDOUT, **common)
    heads = train_heads(bank, labels, [rate], SOLVER, **common)
    return accuracy(heads.logits(queries)[0], wanted)
