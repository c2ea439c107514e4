"""The interface of a transfer task, and what passes between it and the loop over trials.

A command makes a `Request`. The task checks it and opens its data, which gives a `Job`; then the
loop (`loop.py`) lets the task run each `Trial`, and writes its `Outcome` as a record. Detection,
segmentation and classification implement `Task`; `tasks.py` names them.
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
from pretrain.common.cli import output_folder
from pretrain.common.config import dump_yaml, load_config
from pretrain.common.distributed import is_first_of_launcher, is_main
from pretrain.common.errors import InputError
from pretrain.common.logs import setup_logging
from pretrain.common.roles import Roles
from pretrain.data.fingerprint import Fingerprint
from pretrain.data.origins import Origin
from transfer.checkpoints.opened import OpenedWeights
from transfer.checkpoints.weights import Weights
from transfer.results.record import check_trials
from transfer.trials.data import RunData

logger = logging.getLogger(__name__)

# In the folder of a trial: its config, the sha256 of the weights that it began with, and what data
# it began on.
CONFIG_FILE, WEIGHTS_FILE, DATA_FILE = "config.yaml", "weights.sha256", "data.json"


@dataclass(frozen=True)
class Request:
    """What the command line asks for.

    Attributes:
        config: a path, or a name below configs/.
        weights: a file or a source of a checkpoint, or "random".
        name: of the row in a report; None: from the weights.
        engine: of detection: auto, detectron2 or torchvision.
        overrides: KEY VALUE pairs of the config, one after the other.
        first_trial: the trials before it are another command's.
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

    @cached_property
    def opened(self) -> OpenedWeights:
        """The file of `weights`, which is read once in each process."""
        return OpenedWeights(self.weights)

    def folders(self) -> dict[int, Path]:
        """The folder of each trial that the command runs, by the trial's number."""
        numbers = range(self.first_trial, self.trials)
        return {number: Path(self.output) / f"trial_{number}" for number in numbers}

    def check(self) -> None:
        """Raises InputError for no trials and, in the first process, for a used folder."""
        check_trials(self.first_trial, self.trials)
        if is_first_of_launcher():
            output_folder(self.output, self.resume)


class ImageSet(Protocol):
    """A split of a data set."""

    @property
    def name(self) -> str:
        """As in DATASETS."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in their order."""
        ...

    @property
    def origin(self) -> Origin:
        """Where the images come from."""
        ...

    @property
    def fingerprint(self) -> Fingerprint:
        """What the data is."""
        ...

    def __len__(self) -> int:
        """The number of images."""
        ...


SetT = TypeVar("SetT", bound=ImageSet)


@dataclass(frozen=True)
class Job(Generic[SetT]):
    """Everything that the trials share; the config is without the facts of the weights.

    Attributes:
        drawn_from: gives the training set that the trials draw their images or objects from; None:
            all of them train on `train_set`.
    """

    request: Request
    cfg: CfgNode
    train_set: SetT
    test_set: SetT
    drawn_from: Callable[[], SetT] | None = field(default=None, kw_only=True)

    @cached_property
    def data(self) -> RunData:
        """What data the trials are of, whichever part of it one of them draws."""
        train = self.train_set if self.drawn_from is None else self.drawn_from()
        return RunData.of(train, self.test_set)


JobT = TypeVar("JobT", bound=Job)


@dataclass
class Trial:
    """One trial in progress: its number, folder, seed, and when it began."""

    number: int
    folder: Path
    seed: int
    started: str = field(
        default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds")
    )
    begin: float = field(default_factory=time.perf_counter)

    def log_to_folder(self) -> None:
        """Makes the folder, and writes the log into it as well from here on."""
        if is_main():
            self.folder.mkdir(parents=True, exist_ok=True)
            setup_logging(self.folder)

    def write_config(self, cfg: CfgNode, weights: Weights, job: Job[Any]) -> None:
        """Writes the trial's config, and beside it the identities of weights and data: all of them
        mark the folder as this run's."""
        if is_main():
            atomic_write_text(self.folder / DATA_FILE, job.data.to_json())
            atomic_write_text(self.folder / CONFIG_FILE, dump_yaml(cfg))
            atomic_write_text(self.folder / WEIGHTS_FILE, f"{weights.sha256}\n")


@dataclass(frozen=True)
class Outcome:
    """What a trial found, on its way into the record.

    Attributes:
        metrics: in percent; per_class: {metric: {class: percent}}.
        artifacts: {name: path below the trial's folder}, beside those of every task.
        curve: rows with a "step", for curves.json.
        seconds: wall clock of the trial; on_gpu: whether they were a GPU's.
        views_seen: images that went through the backbone, each pass counted.
        protocol: what the record's `protocol` says beside name, config and engine.
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


@dataclass(frozen=True)
class Scored:
    """What a trained model scored: see `Outcome`; `model` is its file."""

    model: str
    metrics: Mapping[str, float]
    per_class: Mapping[str, Mapping[str, float | None]]


@dataclass(frozen=True)
class Cost:
    """What a trial takes: iterations of the optimiser (0: nothing is trained step by step), images
    at once over all processes, and passes over the test images."""

    iterations: int
    batch_size: int
    evaluations: int


class Task(Protocol[JobT]):
    """What a transfer task does; every process calls its methods alike.

    Attributes:
        name: in `tasks.TASKS`.
        roles: what each key of its configs decides.
        saved: files (or patterns) in a trial's folder that the trial continues from.
        marks: further files that --resume takes up, and that must be of the same run.
        untrained: keys that say which backbone "random" weights are, beside the protocol's.
    """

    name: str
    roles: Roles
    saved: tuple[str, ...]
    marks: tuple[str, ...] = ()
    untrained: tuple[str, ...] = ()

    @abstractmethod
    def load_config(self, config: str, overrides: Sequence[str] = ()) -> CfgNode:
        """The merged, frozen config; InputError for a key or a value that is not supported."""
        ...

    def read_config(self, path: Path) -> CfgNode:
        """The config that an earlier trial has written; its values are not checked."""
        return load_config(str(path), self.roles.make_defaults())

    def decided(self, cfg: CfgNode, earlier: CfgNode) -> CfgNode:
        """`cfg` with what data, weights or machine decide taken over from an earlier run's config,
        so that the two can be compared before these are known."""
        return cfg

    def task_in_records(self, cfg: CfgNode) -> str:
        """The name of the task in records."""
        return self.name

    def protocol_name(self, cfg: CfgNode, config: str) -> str:
        """The protocol's name in records."""
        return Path(config).stem

    def identity(self, job: JobT) -> str:
        """The sha256 of the protocol."""
        return self.roles.sha256(job.cfg)

    def tf32_key(self, cfg: CfgNode) -> str:
        """The key that lets float32 matrix products round to TF32, if it is on; else ""."""
        return ""

    @abstractmethod
    def backbone_name(self, cfg: CfgNode) -> str | None:
        """The backbone that the config builds; None: whatever the weights are."""
        ...

    @abstractmethod
    def is_shortened(self, job: JobT) -> bool:
        """Whether the overrides train for less than the config file says, or on fewer images."""
        ...

    @abstractmethod
    def check_processes(self, cfg: CfgNode, processes: int) -> None:
        """Raises InputError unless the batch divides among so many processes."""
        ...

    @abstractmethod
    def describe_batch(self, cfg: CfgNode, config: str, processes: int) -> str:
        """Batch and learning rate on so many processes, in a line; ": no" in it says that the
        result is not comparable with others of the config's protocol."""
        ...

    @abstractmethod
    def cost(self, job: JobT, processes: int) -> Cost:
        """What a trial takes on so many processes."""
        ...

    @abstractmethod
    def open_data(self, request: Request, *, scan: bool = True) -> JobT:
        """The config and both data sets, checked to fit each other.

        `scan` also looks at every image file, where a task does so; that takes longest.

        Raises InputError for whatever would stop the run later.
        """
        ...

    def prepare(self, request: Request, *, scan: bool = True) -> JobT:
        """`open_data`, and whatever else of the request can be checked without reading weights."""
        request.check()
        return self.open_data(request, scan=scan)

    @abstractmethod
    def read_weights(self, job: JobT, seed: int) -> Weights:
        """What a trial of that seed begins with; InputError unless the config can use it."""
        ...

    def weights_of_trial(self, job: JobT, trial: Trial) -> Weights:
        """`read_weights` at the start of a trial: says what is odd about them, and lets the file's
        content go once the last trial has its tensors."""
        weights = self.read_weights(job, trial.seed)
        if trial.number == job.request.trials - 1:
            job.request.opened.close()
        for line in weights.said:
            logger.warning("%s: %s", job.request.weights, line)
        return weights

    @abstractmethod
    def describe(self, job: JobT) -> Sequence[str]:
        """What is said of the data in the log: one line for each split."""
        ...

    @abstractmethod
    def run_trial(self, job: JobT, trial: Trial) -> Outcome | None:
        """Trains and scores; None on every process but the first."""
        ...

    def tidy(self, trial: Trial) -> None:
        """Removes what only a killed trial would need; called before the record is written."""
        return None

    def check_trained(self, request: Request) -> None:
        """Raises InputError unless the data and the trained model in `request.weights` fit the
        config, or if the task cannot score a model by itself."""
        raise InputError(f"{request.config} has no trained model that could be scored")

    def evaluate(self, request: Request) -> Scored | None:
        """Scores the trained model in `request.weights`; None on every process but the first."""
        raise InputError(f"{request.config} has no trained model that could be scored")

    def show_data(self, request: Request, count: int) -> list[Path]:
        """Writes pictures of what is trained on into the output folder; returns their paths."""
        raise InputError(f"{request.config} has no pictures of what is trained on")
