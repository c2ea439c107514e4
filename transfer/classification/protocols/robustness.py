"""The protocol `robustness`: the trained head of a linear probe on a different test set.

Nothing is trained: HEAD.RUN is the output folder of a finished run of `linear` or `linear_crops`,
and trial t takes
the head of that run's trial t. The test set has images of the same classes that differ from the
training images: ImageNet-V2, -R, -A, -Sketch and -C, or a folder in ImageNet-C's layout
(`pretrain/data/robustness_sets.py`). The result belongs to a protocol of its own, so it is never
averaged with that of `linear`. Legend: M test images, C classes.

Sources: the mask of the classes: hendrycks/imagenet-r, eval.py (ImageNet-A is scored in the same
way); the mean corruption error: Hendrycks and Dietterich, arXiv 1903.12261, section 4.2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from fvcore.common.config import CfgNode
from torch import Tensor

from pretrain.common.config import load_config
from pretrain.common.distributed import from_main, is_main
from pretrain.common.errors import InputError
from pretrain.common.lookup import find
from pretrain.common.run_files import CONFIG, RECORD
from pretrain.data.folders import WORDNET_ID
from pretrain.data.robustness_sets import CORRUPTIONS, corruption_of
from transfer.checkpoints.weights import Weights
from transfer.classification.defaults import get_defaults
from transfer.classification.features.extract import extract_features
from transfer.classification.metrics import hits, per_class_accuracies
from transfer.classification.protocols.protocol import (
    ClassificationJob,
    Data,
    OfTrainedHead,
)
from transfer.classification.score import Outcomes, Score
from transfer.classification.splits import Split, open_split
from transfer.classification.trained_head import (
    FILE,
    TRAINED_BY,
    HeadOfTrial,
    TrainedHead,
)
from transfer.results.record import read_record
from transfer.trials.task import Trial

CORRUPTED = ("imagenet_c", "corrupted")
NUMBERED = "imagenet_v2"  # its class folders are numbers
CLASSES = ("all", "present")
# The head has learned from features of such crops. RESIZE is not in the list: ImageNet-C's images
# are crops already, and its authors do not resize them.
SAME = ("PROTOCOL.IMAGE_SIZE", "PROTOCOL.INTERPOLATION", "PROTOCOL.GRAY", "DATASETS.TRAIN")
PROTOCOLS = " or ".join(TRAINED_BY)
PART = 65536  # images whose logits are computed at once: 262 MB for 1,000 classes


def check(cfg: CfgNode, trials: int) -> Data:
    """Opens the heads of all trials and the test set; without trials, the test set alone.

    Raises:
        InputError: a head is missing or belongs to other data or other crops, the heads are of
            different protocols, or the test set has classes that the head does not know.
    """
    find(cfg.HEAD.CLASSES, dict.fromkeys(CLASSES), "choice of classes", "HEAD.CLASSES")
    images = open_split(cfg.DATASETS.TRAIN, cfg.DATASETS.LIMIT_PER_CLASS)
    if trials == 0:
        return Data(images, _open_test(cfg, images.classes), cfg)
    heads = [read_head(cfg, number) for number in range(trials)]
    protocols = {found.record["protocol"]["config_sha256"] for found in heads}
    names = {found.head.classes for found in heads}
    if len(protocols) > 1 or len(names) > 1:
        raise InputError(
            f"HEAD.RUN {cfg.HEAD.RUN}: its trials are of different protocols; name a folder whose "
            "trials were run by one command"
        )
    classes = heads[0].head.classes
    train = relabelled(images, classes)
    _check_training_data(heads, train)
    identity = cfg.clone()
    identity.defrost()
    identity.HEAD.RUN = protocols.pop()
    identity.freeze()
    return Data(train, _open_test(cfg, classes), identity, heads=heads)


def read_head(cfg: CfgNode, number: int) -> HeadOfTrial:
    """Reads the head and the record of one trial of the run HEAD.RUN.

    Raises:
        InputError: there is no such head, the trial's protocol does not leave any, or its crops or
            its training data are different.
    """
    if not cfg.HEAD.RUN:
        raise InputError(
            "HEAD.RUN is empty: name the output folder of a finished run of a config with "
            f"PROTOCOL.NAME {PROTOCOLS}, such as HEAD.RUN runs/linear/mine"
        )
    folder = Path(cfg.HEAD.RUN) / f"trial_{number}"
    if not (folder / RECORD).is_file():
        raise InputError(
            f"HEAD.RUN {cfg.HEAD.RUN}: {folder / RECORD} does not exist; a trial needs the head "
            "of a finished trial of the same number"
        )
    record = read_record(folder / RECORD)
    if record["task"] not in TRAINED_BY or "head" not in record["artifacts"]:
        raise InputError(
            f"HEAD.RUN {cfg.HEAD.RUN}: {folder} has no trained head ({FILE}); run a config with "
            f"PROTOCOL.NAME {PROTOCOLS} and one head on the backbone's own features with this "
            "version"
        )
    check_head_config(cfg, load_config(str(folder / CONFIG), get_defaults()), str(folder))
    return HeadOfTrial(TrainedHead.read(folder / record["artifacts"]["head"]), record, folder)


def check_head_config(cfg: CfgNode, theirs: CfgNode, place: str) -> None:
    """Raises InputError unless a run of the config `theirs` leaves a head that `cfg` can score.

    Args:
        place: where the run is, or will be, for the message.
    """
    name = theirs.PROTOCOL.NAME
    if name not in TRAINED_BY or (name == "linear_crops" and theirs.TRAIN.HEAD == "layers"):
        raise InputError(
            f"the head in {place}: PROTOCOL.NAME is {name}; only {PROTOCOLS} with one head on the "
            f"backbone's own features leave a head ({FILE})"
        )
    for key in SAME:
        node, _, name = key.partition(".")
        ours, its = cfg[node][name], theirs[node][name]
        if ours != its:
            raise InputError(
                f"{key} is {ours}, but the head in {place} is trained with {its}; set it to this"
            )


def relabelled(split: Split, classes: Sequence[str]) -> Split:
    """Returns the split with the head's classes, and the labels that are their numbers.

    Raises:
        InputError: the split has images of a class that the head does not know.
    """
    numbers = {name: number for number, name in enumerate(classes)}
    unknown = [name for name in split.classes if name not in numbers]
    if unknown:
        raise InputError(
            f"{split.name} has {len(unknown)} classes that the head was not trained on, such as "
            f"{unknown[0]!r}; the head's classes are {classes[0]!r} to {classes[-1]!r}; name a set "
            "whose class folders have the same names"
        )
    table = torch.tensor([numbers[name] for name in split.classes])
    return replace(split, labels=table[split.labels], classes=tuple(classes))


def score(job: ClassificationJob, trial: Trial, weights: Weights) -> Score:
    """Scores the head on the features of the test images; nothing is trained.

    Only the first process computes metrics.

    Raises:
        InputError: the head was trained on features of different weights.
    """
    cfg, test = job.cfg, job.test_set
    found = job.heads[trial.number]
    if found.record["checkpoint"]["sha256"] != weights.sha256:
        raise InputError(
            f"the head in {found.folder} was trained on features of "
            f"{found.record['checkpoint']['name']}, not of {job.request.weights}; give the weights "
            "or the HEAD.RUN of one checkpoint"
        )
    job.begin_folder(trial, weights)
    head = found.head.to(job.device)
    columns = test.labels.unique() if cfg.HEAD.CLASSES == "present" else None
    right = torch.zeros(len(test), 2, dtype=torch.bool)
    groups = corruptions(test)
    for severities in groups.values():  # one after the other: ImageNet-C's features are 30 GB
        rows = torch.cat(severities)
        part = test if len(groups) == 1 else test.subset(rows.tolist())
        features = extract_features(
            weights,
            part,
            job.transform,
            device=job.device,
            batch_size=cfg.DATALOADER.BATCH_SIZE,
            num_workers=cfg.DATALOADER.NUM_WORKERS,
            cache_dir=cfg.CACHE_DIR,
            precision=cfg.FEATURES.PRECISION,
            storage=cfg.FEATURES.STORAGE,
        )
        if is_main():
            right[rows] = head_hits(head, features.values, part.labels, columns)
    if not is_main():
        return Score({}, {})
    return _score(right, test, groups, count=len(test.classes) if columns is None else len(columns))


PROTOCOL = OfTrainedHead(names=("robustness",), check=check, score=score)


def head_hits(
    head: TrainedHead, features: Tensor, labels: Tensor, columns: Tensor | None
) -> Tensor:
    """Returns whether each image's label is top-1, and whether it is among the top 5: (M, 2) bool.

    Args:
        features: (M, D) on any device.
        labels: (M,), numbers of the head's classes.
        columns: sorted numbers of the classes that may be predicted; None: all.
    """
    device = head.weight.device
    found = []
    for values, wanted in zip(features.split(PART), labels.split(PART)):
        logits = head.logits(values.to(device, torch.float32))
        if columns is not None:
            logits, wanted = logits[:, columns.to(device)], torch.searchsorted(columns, wanted)
        there = wanted.to(device)
        found.append(torch.stack([hits(logits, there), hits(logits, there, 5)], dim=1).cpu())
    return torch.cat(found)


def corruptions(test: Split) -> dict[str, list[Tensor]]:
    """Returns {corruption: the numbers of its images, by severity}; {"": [all]} for a set without
    corruptions.
    """
    if test.name.partition(":")[0] not in CORRUPTED:
        return {"": [torch.arange(len(test))]}
    rows: dict[str, dict[str, list[int]]] = {}
    for index in range(len(test)):
        corruption, severity = corruption_of(test.images.name(index))
        rows.setdefault(corruption, {}).setdefault(severity, []).append(index)
    return {name: list(map(torch.tensor, found.values())) for name, found in rows.items()}


def mean_corruption_error(top1: Mapping[str, float]) -> float:
    """Returns ImageNet-C's mCE: the mean over corruptions of error / AlexNet's error, times 100.

    Args:
        top1: accuracy in percent by corruption, the mean over its five severities. Only the 15
            corruptions of the benchmark count, and all must be there.
    """
    ratios = [(100.0 - top1[name]) / alexnet for name, (_, alexnet) in CORRUPTIONS.items()]
    return 100.0 * sum(ratios) / len(ratios)


def _score(
    right: Tensor, test: Split, groups: Mapping[str, Sequence[Tensor]], *, count: int
) -> Score:
    """Returns the metrics of M images, (M, 2) bool; `count` classes could be predicted."""
    per_class = per_class_accuracies({"top1": right[:, 0]}, test.labels, test.classes)
    # The mean over severities, which is not that over images if a severity has fewer of them
    top1 = {
        name: sum(_percent(right[rows, 0]) for rows in severities) / len(severities)
        for name, severities in groups.items()
    }
    if "" in groups:
        metrics = {"top1": top1[""]}
        if count > 5:
            metrics["top5"] = _percent(right[:, 1])
        correct = {name: right[:, n].numpy() for n, name in enumerate(metrics)}
        return Score(metrics, per_class, outcomes=Outcomes(correct), views=len(test))
    # The same photograph is there many times, so no replicates are drawn: they would be too narrow.
    metrics = {"top1": sum(top1.values()) / len(top1)}
    if test.name == "imagenet_c:test":
        metrics["mCE"] = mean_corruption_error(top1)
    metrics |= {f"{name}_top1": value for name, value in top1.items()}
    return Score(metrics, per_class, views=len(test))


def _percent(right: Tensor) -> float:
    return 100.0 * int(right.sum()) / len(right)


def _open_test(cfg: CfgNode, classes: Sequence[str]) -> Split:
    name, limit = cfg.DATASETS.TEST, cfg.DATASETS.TEST_LIMIT_PER_CLASS
    kind = name.partition(":")[0]
    if kind in CORRUPTED and limit:
        raise InputError(
            f"DATASETS.TEST_LIMIT_PER_CLASS {limit} would leave out corruptions of {name}; set it "
            "to 0"
        )
    test = open_split(name, limit, "DATASETS.TEST_LIMIT_PER_CLASS")
    if kind == NUMBERED:
        if len(test.classes) != len(classes):
            raise InputError(
                f"{name} has {len(test.classes)} numbered class folders, but the head has "
                f"{len(classes)} classes; name a set that has a folder for each class"
            )
        test = replace(test, classes=numbered(name, test.classes, classes))
    test = relabelled(test, classes)
    present = len(test.labels.unique())
    if cfg.HEAD.CLASSES == "all" and present < len(classes):
        raise InputError(
            f"{name} has images of {present} of the head's {len(classes)} classes; set "
            "HEAD.CLASSES present, so that only these can be predicted, as the authors of "
            "ImageNet-R and -A do, or name a complete test set"
        )
    return test


def numbered(name: str, numbers: Sequence[str], classes: Sequence[str]) -> tuple[str, ...]:
    """Returns the head's class for each number: the number itself if the head's classes have such
    names, otherwise the WordNet id at this place of the sorted ids, as ImageNet-V2's authors count.

    Raises:
        InputError: the head's classes have other names, whose order says nothing of the numbers.
    """
    if set(numbers) == set(classes):
        return tuple(numbers)
    unlike = [one for one in classes if not WORDNET_ID.fullmatch(one)]
    if unlike:
        raise InputError(
            f"{name}: its folder N has the class whose WordNet id is the N-th of the sorted ids, "
            f"but the head's classes are not such ids ({unlike[0]!r}); train the head on class "
            "folders that are named n01440764 and so on, or give the test images class folders "
            "with the head's names, as folder:FOLDER"
        )
    return tuple(sorted(classes))


def _check_training_data(heads: Sequence[HeadOfTrial], train: Split) -> None:
    ours = from_main(None, lambda: train.fingerprint).facts()["fingerprint"]
    for found in heads:
        data = found.record.get("data")
        if data is not None and data["train"]["fingerprint"] != ours:
            raise InputError(
                f"the head in {found.folder} was trained on different images than {train.name} has "
                "now; train it again, or restore its training set"
            )
