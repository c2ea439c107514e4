"""Checks the config, data and weights of every job before the first job starts.

The result is the cost of each job in a plan, or its problem. The doctor checks a single run with
the same functions. The command passes in the module that checks pretraining, because only
`pretrain` can read its configs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from fvcore.common.config import CfgNode

from pretrain.backbones.resnet import BACKBONES
from pretrain.common.config import flat
from pretrain.common.errors import InputError
from pretrain.common.run_needs import RunNeeds
from pretrain.data.build import PretrainingData
from pretrain.data.datasets import ImageDataset
from transfer.checkpoints.files import RANDOM
from transfer.checkpoints.networks.architectures import same_trunk
from transfer.suite.config import TASK_FOLDERS, Collector, Problems
from transfer.suite.earlier import (
    check_pretraining_folder,
    check_task_folder,
    check_weights_stay,
)
from transfer.suite.plan import Job
from transfer.trials.task import Request, Task
from transfer.trials.tasks import task_of


class Pretraining(Protocol):
    """Describes what only `pretrain` can do; see its module `pretrain.engine.before_a_run`."""

    def get_defaults(self) -> CfgNode:
        """Returns all keys with their defaults."""

    def load_checked(self, config: str, overrides: Sequence[str], num_processes: int, /) -> CfgNode:
        """Returns a run's config; InputError for one that cannot run."""

    def check_inputs(
        self, cfg: CfgNode, opened: dict[str, ImageDataset] | None = None, /
    ) -> PretrainingData:
        """Returns the data; InputError for data that cannot be read.

        `opened` has the open data sets by name, and gets those that are opened.
        """

    def check_same_config(self, saved: str, present: str, path: Path, /) -> None:
        """Raises InputError if two configs as YAML differ; `path` is that of the first."""

    def run_needs(self, cfg: CfgNode, num_processes: int, num_images: int | None, /) -> RunNeeds:
        """Returns what a run needs from its GPUs; None: the number of images is unknown."""

    def batch_note(self, cfg: CfgNode, /) -> str | None:
        """Returns a warning if the batch is not the recipe's."""

    def queue_note(self, cfg: CfgNode, count: int, /) -> str | None:
        """Returns a warning about the queue of keys, given the number of training images."""


@dataclass(frozen=True)
class Checked:
    """Holds the cost of a task by its config and data; 0: there is none, or it is not known."""

    backbone: str | None = None  # the backbone that the config builds; None: the weights decide
    untrained: str = ""  # the backbone of `random` weights
    iterations: int = 0  # optimizer steps per trial, of det, and of cls that trains on crops
    batch_size: int = 0  # images at once
    train_images: int = 0
    test_images: int = 0
    evaluations: int = 1  # passes over the test images per trial


@dataclass(frozen=True)
class Known:
    """Facts of weights; None if they do not exist yet, or if each trial draws new weights."""

    backbone: str | None = None
    sha256: str | None = None


@dataclass
class Checks:
    """Holds, by job name: facts, problems, and the backbone of the weights if it is known."""

    facts: dict[str, Checked] = field(default_factory=dict)
    problems: dict[str, tuple[str, str]] = field(default_factory=dict)  # (subject, problem)
    backbones: dict[str, str | None] = field(default_factory=dict)

    def reason(self, name: str) -> str:
        """Returns the problem of a job, or the name of the first job that has the same problem."""
        problem = self.problems[name][1]
        first = next(job for job, (_, other) in self.problems.items() if other == problem)
        return problem if first == name else f"for the reason of {first}"

    def raise_problems(self) -> None:
        """Raises Problems, with each line only once."""
        if self.problems:
            unique = dict.fromkeys(self.problems.values())
            raise Problems(*(f"{about}: {what}" for about, what in unique))


def check_configs(jobs: Sequence[Job], pretraining: Pretraining) -> None:
    """Raises Problems for all configs and overrides that do not load, over all jobs together."""
    found = Collector()
    for job in jobs:
        with found.about(_subject(job)):
            if job.kind == "pretrain":
                pretraining.load_checked(job.config, job.overrides, job.processes)
            elif job.kind in TASK_FOLDERS:
                task_of_job(job).load_config(job.config, job.overrides)
    found.close()


def check_jobs(jobs: Sequence[Job], pretraining: Pretraining) -> Checks:
    """Opens the data of the jobs that are not done, and all weights, each of them once.

    Existing records and checkpoints must match the current configs and weights.
    """
    checks = Checks()
    made: dict[str, Known | InputError] = {}  # by weights
    makers: dict[str, Job] = {}
    tasks: dict[str, Checked | InputError] = {}
    opened: dict[str, ImageDataset] = {}  # shared by all pretraining jobs: a folder is listed once
    for job in (job for job in jobs if job.kind == "pretrain"):
        cfg = pretraining.load_checked(job.config, job.overrides, job.processes)
        weights = str(job.output / "backbone.pkl")
        made[weights], makers[weights] = Known(cfg.BACKBONE.NAME), job
        problem = _outcome(check_pretraining_folder, job, cfg, pretraining.check_same_config)
        if problem is None and not job.is_done():
            data = _outcome(pretraining.check_inputs, cfg, opened)
            if isinstance(data, PretrainingData):
                checks.facts[job.name] = Checked(train_images=len(data.train))
            else:
                problem = data
        if problem is not None:
            checks.problems[job.name] = (job.name, str(problem))
    for job in (job for job in jobs if job.kind in TASK_FOLDERS):
        task, _, checkpoint = job.name.rpartition("/")
        if job.weights not in made:
            made[job.weights] = _outcome(_known, job.weights)
        known = made[job.weights]
        if isinstance(known, InputError):
            checks.problems[job.name] = (f"checkpoint {checkpoint}", str(known))
            continue
        checks.backbones[job.name] = known.backbone
        problem = _outcome(_check_folder, job, known, makers.get(job.weights))
        if problem is not None:
            checks.problems[job.name] = (job.name, str(problem))
        if problem is not None or job.is_done():
            continue
        if task not in tasks:
            tasks[task] = _outcome(check_task, job, known.backbone)
        facts = tasks[task]
        if isinstance(facts, InputError):
            checks.problems[job.name] = (task, str(facts))
            continue
        checks.facts[job.name] = facts
        has = known.backbone
        if facts.backbone and has and not same_trunk(has, facts.backbone):
            what = f"{job.weights} is a {has}, but {job.config} builds a {facts.backbone}"
            checks.problems[job.name] = (job.name, f"{what}; list its checkpoints by name")
    return checks


def _check_folder(job: Job, known: Known, maker: Job | None) -> None:
    """Raises InputError if existing results do not match the job."""
    if maker is not None:
        check_weights_stay(job, maker)
    check_task_folder(job, task_of_job(job), known.sha256)


def _outcome(function: Callable[..., Any], *args: Any) -> Any:
    """Returns the function's result, or the InputError that it raises."""
    try:
        return function(*args)
    except InputError as error:
        return error


def task_of_job(job: Job) -> Task[Any]:
    """Returns the task of a det or cls job."""
    return task_of(job.kind, job.config, job.overrides)


def request_of(job: Job, weights: str, words: Sequence[str] = ()) -> Request:
    """Returns the request of a det or cls job, which continues from existing results.

    Args:
        weights: the job's weights, or weights that replace them in a check.
        words: additional overrides.
    """
    return Request(
        config=job.config,
        weights=weights,
        output=str(job.output),
        trials=job.trials,
        resume=True,
        overrides=(*job.overrides, *words),
        heads_exist=not job.waits_for_head,
    )


def check_task(job: Job, backbone: str | None) -> Checked:
    """Opens the data of a det or cls job, and returns the cost of its trials.

    It does not check image files. Weights that another job will make are replaced by random ones.

    Args:
        backbone: backbone of the weights, if it is known.
    """
    task = task_of_job(job)
    weights, words = stand_in(job, backbone)
    if job.head is not None:
        from transfer.classification.protocols.robustness import check_head_config

        configs = [task.load_config(one.config, one.overrides) for one in (job, job.head)]
        check_head_config(configs[0], configs[1], str(job.head.output))
    prepared = task.prepare(request_of(job, weights, words), scan=False)
    builds = task.backbone_name(prepared.cfg)
    if builds is None:  # the weights decide the backbone, and whether the images fit it
        task.read_weights(prepared, prepared.cfg.SEED)
    task.check_processes(prepared.cfg, job.processes)
    cost = task.cost(prepared, job.processes)
    return Checked(
        backbone=builds,
        untrained=builds or flat(prepared.cfg)[task.untrained[0]],
        iterations=cost.iterations,
        batch_size=cost.batch_size,
        train_images=len(prepared.train_set),
        test_images=len(prepared.test_set),
        evaluations=cost.evaluations,
    )


def stand_in(job: Job, backbone: str | None) -> tuple[str, tuple[str, ...]]:
    """Returns the job's weights, or random ones until they exist, with the overrides they need."""
    if not job.needs or Path(job.weights).exists():
        return job.weights, ()
    task = task_of_job(job)
    if task.backbone_name(task.load_config(job.config, job.overrides)) is not None:
        return RANDOM, ()
    # A backbone that only timm knows is replaced by the most common one.
    return RANDOM, (task.untrained[0], backbone if backbone in BACKBONES else "resnet50")


def _known(weights: str) -> Known:
    if weights == RANDOM:
        return Known()
    from transfer.checkpoints.opened import OpenedWeights
    from transfer.checkpoints.read import read_weights
    from transfer.detection.weights.detector_file import BACKBONE, kind_of

    opened = OpenedWeights(weights)
    if kind_of(opened) != BACKBONE:
        return Known()  # a complete detector: the task that starts from it checks it
    found = read_weights(opened)
    return Known(found.backbone, found.sha256)


def _subject(job: Job) -> str:
    """Returns the subject of a problem with the job's config: the task, or the pretraining."""
    return job.name if job.kind == "pretrain" else job.name.rpartition("/")[0]
