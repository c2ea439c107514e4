"""The common part of the tasks detection and segmentation: both read configs with Detectron2's
keys.

`FineTuning` is the part of the task interface (`transfer/trials/task.py`) that depends on these
keys alone: the rate, the iterations and the batch of a run, and what its files are called.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode

from transfer.detection import config as detection_config
from transfer.detection.config import load_merged
from transfer.detection.config_checks import value_of
from transfer.detection.lr_sweep import FILE_NAME as SWEEP_FILE
from transfer.detection.lr_sweep import FOLDER as SWEEP_FOLDER
from transfer.detection.lr_sweep import iterations_of
from transfer.detection.roles import ROLES
from transfer.detection.scaling import for_processes
from transfer.results.record import takes_fewer
from transfer.training.files import forget_last_checkpoint
from transfer.training.metrics import read_metrics
from transfer.trials.task import Cost, Job, JobT, Request, Task, Trial


class FineTuning(Task[JobT]):
    """Is a task whose configs are read by `load_merged`."""

    roles = ROLES
    saved = ("model_[0-9]*.pth", "model_final.pth")
    marks = (SWEEP_FILE, f"{SWEEP_FOLDER}/*/model_[0-9]*.pth")

    def read_config(self, path: Path) -> CfgNode:
        """See `Task.read_config`."""
        return load_merged(str(path))

    def decided(self, cfg: CfgNode, earlier: CfgNode) -> CfgNode:
        """Returns the config with TRANSFER.INIT `auto` replaced by the value in `earlier`, in which
        the weights have decided it.
        """
        if cfg.TRANSFER.INIT != "auto":
            return cfg
        return detection_config.changed(cfg, {"TRANSFER.INIT": earlier.TRANSFER.INIT})

    def protocol_name(self, cfg: CfgNode, config: str) -> str:
        """Returns TRANSFER.PROTOCOL, or the config file's stem."""
        return detection_config.protocol_name(cfg, config)

    def is_shortened(self, job: JobT) -> bool:
        """Returns whether there are fewer iterations or images than in the config file."""
        full, cfg = load_merged(job.request.config), job.cfg
        fewer = takes_fewer(cfg.TRANSFER.LIMIT_IMAGES, full.TRANSFER.LIMIT_IMAGES)
        return fewer or cfg.SOLVER.MAX_ITER < full.SOLVER.MAX_ITER

    def check_processes(self, cfg: CfgNode, processes: int) -> None:
        """Raises InputError, naming the key, if the batch does not divide."""
        for_processes(cfg, processes)

    def describe_batch(self, cfg: CfgNode, config: str, processes: int) -> str:
        """See `Task.describe_batch`."""
        solver = for_processes(cfg, processes).SOLVER
        return f"batch {solver.IMS_PER_BATCH}, learning rate {solver.BASE_LR:g}"

    def tidy(self, trial: Trial) -> None:
        """Removes the last periodic checkpoint."""
        forget_last_checkpoint(trial.folder)

    def cost(self, job: JobT, processes: int) -> Cost:
        """Iterations of the short runs of a sweep are counted as well."""
        cfg = for_processes(job.cfg, processes)
        period = cfg.TEST.EVAL_PERIOD
        evaluations = 1 + ((cfg.SOLVER.MAX_ITER - 1) // period if period else 0)
        return Cost(iterations_of(cfg), cfg.SOLVER.IMS_PER_BATCH, evaluations)


def classes_from_data(job: Job[Any], key: str) -> list[str]:
    """Returns the line for the log about the number of classes, if it is not the config's own.

    Args:
        key: the key of the number of classes.
    """
    found = value_of(job.cfg, key)
    asked = value_of(load_merged(job.request.config, job.request.overrides), key)
    return [f"{key} {found}, from the data, instead of {asked}"] if found != asked else []


def config_of_trial(cfg: CfgNode, request: Request, trial: Trial) -> CfgNode:
    """Returns the config that repeats one trial: with its seed, folder, weights and protocol's
    name.
    """
    return detection_config.changed(
        cfg,
        {
            "SEED": trial.seed,
            "OUTPUT_DIR": str(trial.folder),
            "MODEL.WEIGHTS": request.weights,
            # The written file has a different stem.
            "TRANSFER.PROTOCOL": detection_config.protocol_name(cfg, request.config),
        },
    )


def training_curve(folder: Path) -> list[dict[str, Any]]:
    """Returns the rows of a trial's metrics.json, for curves.json."""
    return [{"step": row.pop("iteration"), **row} for row in read_metrics(folder)]
