"""The interface of a transfer task, and the objects that it exchanges with the loop over trials.

A command makes a `Request`. The task checks it and opens its data, which gives a `Job`. Then the
loop (`loop.py`) calls the task to run each `Trial`, and writes its `Outcome` as a record.
Detection, segmentation and classification implement `Task`; `tasks.py` lists them.
"""

from __future__ import annotations

import logging
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from fvcore.common.config import CfgNode

from pretrain.common.checkpoint import atomic_write_text
from pretrain.common.cli import TRIALS, output_folder
from pretrain.common.config import dump_yaml, load_config
from pretrain.common.distributed import is_first_of_launcher, is_main
from pretrain.common.errors import InputError
from pretrain.common.logs import setup_logging
from pretrain.common.roles import Roles
from pretrain.common.run_files import CONFIG, WEIGHTS_FILE
from pretrain.data.fingerprint import Fingerprint
from pretrain.data.origins import Origin
from transfer.checkpoints.opened import OpenedWeights
from transfer.checkpoints.weights import Weights
from transfer.results.record import check_trials
from transfer.trials.data import RunData

logger = logging.getLogger(__name__)

DATA_FILE = "data.json"  # in a trial's folder: the fingerprints of its data


@dataclass(frozen=True)
class Request:
    """Says what the command line asks for.

    Attributes:
        config: a path, or a name below configs/.
        weights: a file or a source of a checkpoint, or "random".
        name: name of the row in a report; None: from the weights.
        engine: detection engine: auto, detectron2 or torchvision.
        overrides: overrides of the config: KEY, VALUE, KEY, VALUE and so on.
        first_trial: number of the first trial; another command may run the trials before it.
        heads_exist: False if a suite checks a task whose heads one of its jobs has yet to train.
    """

    config: str
    weights: str
    output: str
    name: str | None = None
    engine: str = "auto"
    trials: int = 1
    resume: bool = False
    overrides: tuple[str, ...] = ()
    first_trial: int = 0
    heads_exist: bool = True

    @cached_property
    def opened(self) -> OpenedWeights:
        """Returns the opened file of `weights`; each process reads it once."""
        return OpenedWeights(self.weights)

    def folders(self) -> dict[int, Path]:
        """Returns {number of a trial: its folder} for the trials that the command runs."""
        numbers = range(self.first_trial, self.trials)
        return {number: Path(self.output) / f"trial_{number}" for number in numbers}

    def check(self) -> None:
        """Raises InputError if there are no trials or, in the first process, for a used folder."""
        check_trials(self.first_trial, self.trials)
        if is_first_of_launcher():
            output_folder(self.output, self.resume, TRIALS)


class ImageSet(Protocol):
    """Is a split of a data set."""

    @property
    def name(self) -> str:
        """Returns the name in DATASETS."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Returns the names of the classes, in their order."""
        ...

    @property
    def origin(self) -> Origin:
        """Returns where the images come from."""
        ...

    @property
    def fingerprint(self) -> Fingerprint:
        """Returns the fingerprint of the data."""
        ...

    def __len__(self) -> int:
        """The number of images."""
        ...


SetT = TypeVar("SetT", bound=ImageSet)


@dataclass(frozen=True)
class Job(Generic[SetT]):
    """Holds everything that all trials share; the config does not have the facts of the weights.

    Attributes:
        drawn_from: returns the training set from which the trials draw their images or objects;
            None: all of them train on `train_set`.
    """

    request: Request
    cfg: CfgNode
    train_set: SetT
    test_set: SetT
    drawn_from: Callable[[], SetT] | None = field(default=None, kw_only=True)

    @cached_property
    def data(self) -> RunData:
        """Returns the data of all trials, before a trial draws a part of it."""
        train = self.train_set if self.drawn_from is None else self.drawn_from()
        return RunData.of(train, self.test_set)


JobT = TypeVar("JobT", bound=Job)


@dataclass
class Trial:
    """Is one trial in progress: its number, folder, seed and start time."""

    number: int
    folder: Path
    seed: int
    started: str = field(
        default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds")
    )
    begin: float = field(default_factory=time.perf_counter)

    def log_to_folder(self) -> None:
        """Creates the folder; from now on the log is also written into it."""
        if is_main():
            self.folder.mkdir(parents=True, exist_ok=True)
            setup_logging(self.folder)

    def write_config(self, cfg: CfgNode, weights: Weights, job: Job[Any]) -> None:
        """Writes the trial's config and the identities of its weights and data into its folder.

        Together they mark the folder as this run's folder.
        """
        if is_main():
            atomic_write_text(self.folder / DATA_FILE, job.data.to_json())
            atomic_write_text(self.folder / CONFIG, dump_yaml(cfg))
            atomic_write_text(self.folder / WEIGHTS_FILE, f"{weights.sha256}\n")


@dataclass(frozen=True)
class Outcome:
    """Is the result of a trial, before it is written to the record.

    Attributes:
        metrics: metrics in percent; per_class: {metric: {class: percent}}.
        artifacts: {name: path below the trial's folder}, without the artifacts that all tasks have.
        curve: rows with a "step", for curves.json.
        seconds: wall-clock time of the trial; on_gpu: whether it ran on a GPU.
        views_seen: number of images passed through the backbone, counted again in each pass.
        protocol: what the record's `protocol` has in addition to name, config and engine.
    """

    weights: Weights
    engine: str
    engine_version: str
    metrics: Mapping[str, float]
    per_class: Mapping[str, Mapping[str, float | None]]
    artifacts: Mapping[str, str]
    curve: Sequence[Mapping[str, float]]
    seconds: float
    on_gpu: bool
    views_seen: int
    protocol: Mapping[str, Any] = field(default_factory=dict)


# The config and the test set by which a trained model is scored
Trained = tuple[CfgNode, SetT]


@dataclass(frozen=True)
class Scored:
    """Holds the scores of a trained model, see `Outcome`; `model` is its file."""

    model: str
    metrics: Mapping[str, float]
    per_class: Mapping[str, Mapping[str, float | None]]


@dataclass(frozen=True)
class Cost:
    """Holds the cost of a trial.

    It has the iterations of the optimizer (0: no gradient steps), the number of images at once in
    all processes together, and the number of passes over the test images.
    """

    iterations: int
    batch_size: int
    evaluations: int


class Task(Protocol[JobT]):
    """Is the interface of a transfer task; all processes call its methods in the same order.

    Attributes:
        name: name in `tasks.TASKS`.
        roles: the role of each key of its configs.
        saved: files (or patterns) in a trial's folder from which the trial continues.
        marks: further files that --resume reads and that must be from the same run.
        untrained: keys, besides the protocol's, that select the backbone of "random" weights.
    """

    name: str
    roles: Roles
    saved: tuple[str, ...]
    marks: tuple[str, ...] = ()
    untrained: tuple[str, ...] = ()

    @abstractmethod
    def load_config(self, config: str, overrides: Sequence[str] = ()) -> CfgNode:
        """Returns the merged, frozen config; InputError for an unsupported key or value."""
        ...

    def read_config(self, path: Path) -> CfgNode:
        """Returns the config that an earlier trial has written; its values are not checked."""
        return load_config(str(path), self.roles.make_defaults())

    def decided(self, cfg: CfgNode, earlier: CfgNode) -> CfgNode:
        """Returns `cfg` with values from an earlier run's config, to compare the two.

        The values are those that data, weights or machine decide, which are not known yet.
        """
        return cfg

    def task_in_records(self, cfg: CfgNode) -> str:
        """Returns the name of the task in records."""
        return self.name

    def protocol_name(self, cfg: CfgNode, config: str) -> str:
        """Returns the protocol's name in records."""
        return Path(config).stem

    def identity(self, job: JobT) -> str:
        """Returns the sha256 of the protocol."""
        return self.roles.sha256(job.cfg)

    def tf32_key(self, cfg: CfgNode) -> str:
        """Returns the key that lets float32 matrix products round to TF32, if it is on; else ""."""
        return ""

    @abstractmethod
    def backbone_name(self, cfg: CfgNode) -> str | None:
        """Returns the backbone that the config builds; None: the weights decide."""
        ...

    @abstractmethod
    def is_shortened(self, job: JobT) -> bool:
        """Returns whether the overrides shorten the config file's training or its data."""
        ...

    @abstractmethod
    def check_processes(self, cfg: CfgNode, processes: int) -> None:
        """Raises InputError unless the batch divides among this number of processes."""
        ...

    @abstractmethod
    def describe_batch(self, cfg: CfgNode, config: str, processes: int) -> str:
        """Returns a line with the batch size and learning rate on this number of processes.

        ": no" in it means that the result is not comparable with others of the config's protocol.
        """
        ...

    @abstractmethod
    def cost(self, job: JobT, processes: int) -> Cost:
        """Returns the cost of a trial on this number of processes."""
        ...

    @abstractmethod
    def open_data(self, request: Request, *, scan: bool = True) -> JobT:
        """Returns the config and both data sets, after a check that they fit each other.

        With `scan`, a task may also check every image file, which takes the longest.

        Raises:
            InputError: the run would stop later with this config or data.
        """
        ...

    def prepare(self, request: Request, *, scan: bool = True) -> JobT:
        """Calls `open_data` and checks everything else that does not need the weights."""
        request.check()
        return self.open_data(request, scan=scan)

    @abstractmethod
    def read_weights(self, job: JobT, seed: int) -> Weights:
        """Returns a trial's initial weights; InputError unless the config can use them."""
        ...

    def weights_of_trial(self, job: JobT, trial: Trial) -> Weights:
        """Calls `read_weights` at the start of a trial, and logs what is unusual about the weights.

        It frees the file's content after the last trial has its tensors.
        """
        weights = self.read_weights(job, trial.seed)
        if trial.number == job.request.trials - 1:
            job.request.opened.close()
        for line in weights.said:
            logger.warning("%s: %s", job.request.weights, line)
        return weights

    @abstractmethod
    def describe(self, job: JobT) -> Sequence[str]:
        """Returns the log lines about the data: one for each split."""
        ...

    @abstractmethod
    def run_trial(self, job: JobT, trial: Trial) -> Outcome | None:
        """Trains and scores; returns None on every process except the first."""
        ...

    def tidy(self, trial: Trial) -> None:
        """Removes files that only a resumed trial needs; called before the record is written."""
        return None

    def open_trained(self, request: Request, *, scan: bool = True) -> Trained[Any]:
        """Returns the config and the data by which the model in `request.weights` is scored.

        Args:
            scan: also checks every image file.

        Raises:
            InputError: they do not fit, or the task cannot score a trained model.
        """
        raise InputError(_nothing_to_score(request))

    def evaluate(self, request: Request, trained: Trained[Any]) -> Scored | None:
        """Scores the trained model in `request.weights`; None on every process except the first.

        Raises InputError if the task has no such models.
        """
        raise InputError(_nothing_to_score(request))

    def show_data(self, request: Request, count: int) -> list[Path]:
        """Writes pictures of the training images into the output folder; returns their paths.

        Raises InputError if the task has no such pictures.
        """
        raise InputError(
            f"the task of {request.config} has no pictures of its training data; leave out "
            "--show-data"
        )


def _nothing_to_score(request: Request) -> str:
    return f"the task of {request.config} has no trained model to score; leave out --eval-only"
