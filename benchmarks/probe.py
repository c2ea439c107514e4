"""What a small pretrained network is worth: a run directory in, accuracies in percent out.

Each network is probed four times: batch-norm statistics of training and re-estimated ones, the
high-pass filter on and off. Any backbone, since trunks are built from the run's own config.
Legend: N images of the bank, M queries, D features, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
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
K, TEMPERATURE = 20, 0.07  # DINO's eval_knn.py
SOLVER = Solver(epochs=50, batch_size=256)
RATES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)  # of the linear probe, per 256 images
HOLDOUT = 0.1


@dataclass(frozen=True)
class ProbeSet:
    """Labelled images (uint8, in memory) of the bank and of the queries."""

    bank: LabelledImages
    queries: LabelledImages
    classes: int

    @classmethod
    def of_validation(cls, cfg: CfgNode, limits: tuple[int, int] = (0, 0)) -> ProbeSet:
        """KNN_TRAIN against KNN_TEST; `limits` bound the images of each (0 = all)."""
        bank, queries = open_images(cfg.DATASETS.KNN_TRAIN), open_images(cfg.DATASETS.KNN_TEST)
        return cls._read(cfg, bank, queries, limits)

    @classmethod
    def of_held_out(cls, cfg: CfgNode, limits: tuple[int, int] = (0, 0)) -> ProbeSet:
        """The training images that LIMIT_PER_CLASS takes against those that it leaves out."""
        whole, limit = open_images(cfg.DATASETS.TRAIN), cfg.DATASETS.LIMIT_PER_CLASS
        taken = open_images(cfg.DATASETS.TRAIN, limit)
        kept = {taken.name(index) for index in range(len(taken))}
        rest = [index for index in range(len(whole)) if whole.name(index) not in kept]
        return cls._read(cfg, taken, whole.subset(rest), limits)

    @classmethod
    def _read(
        cls, cfg: CfgNode, bank: ImageDataset, queries: ImageDataset, limits: tuple[int, int]
    ) -> ProbeSet:
        size = cfg.VIEWS.SIZE
        parts = [LabelledImages.read(d, size, n) for d, n in zip((bank, queries), limits)]
        return cls(*parts, classes=len(bank.classes))


def probe_run(folder: Path, images: ProbeSet, device: torch.device, seed: int) -> dict[str, float]:
    """Metrics `WHAT/STATISTICS/FILTER` of a finished run, such as `knn20/precise/on`.

    WHAT is knn20, linear, feature_std or effective_rank; a trunk without batch norm has raw alone.
    """
    metrics: dict[str, float] = {}
    for statistics, name in FILES.items():
        if not (folder / name).is_file():
            continue
        cfg = CfgNode(yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")))
        trunk, wanted = load_trunk(cfg, folder / name)
        trunk.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)
        for choice in FILTERS:
            highpass = (wanted.highpass or build_highpass(cfg)) if choice == "on" else None
            values = probe(trunk, replace(wanted, highpass=highpass), images, device, seed)
            metrics.update({f"{key}/{statistics}/{choice}": v for key, v in values.items()})
    return metrics


def probe(
    trunk: nn.Module, preprocess: Preprocess, images: ProbeSet, device: torch.device, seed: int
) -> dict[str, float]:
    """Weighted kNN, and a linear head whose rate is chosen on held-out images of the bank."""
    bank, queries = (
        trunk_features(trunk, part.images, preprocess, device, 512)
        for part in (images.bank, images.queries)
    )
    labels, wanted = images.bank.labels, images.queries.labels
    common = {"k": [K], "temperature": TEMPERATURE, "num_classes": images.classes}
    votes = weighted_knn(bank, labels, queries, **common)
    return {
        f"knn{K}": top_accuracy(votes[K], wanted),
        "linear": _linear(bank, labels, queries, wanted, images.classes, device, seed),
        "feature_std": feature_std(queries),
        "effective_rank": effective_rank(queries[:2000]),
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
