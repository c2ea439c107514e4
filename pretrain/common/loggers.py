"""The programs that show the scalars of a run, in addition to its file: TensorBoard, Weights &
Biases, Trackio, MLflow.

All get the names of metrics.jsonl. The packages are optional (the extra `loggers`), but for
TensorBoard. None of them can harm a run: one that fails is left out with a warning, since the run's
own file has every row.

The project is "mscn", or what each program's own variables say ($WANDB_PROJECT, $TRACKIO_PROJECT,
$MLFLOW_EXPERIMENT_NAME, $MLFLOW_TRACKING_URI, $WANDB_MODE=offline). A run is named by its folder,
and is continued by the same folder; the runs of a suite are one group.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

from pretrain.common.installed import check_installed
from pretrain.common.lookup import find

logger = logging.getLogger(__name__)

GROUP_VARIABLE = "MSCN_RUN_GROUP"  # set by a suite for its jobs
PROJECT = "mscn"


class Logger(Protocol):
    """Gives scalars to one program that shows them."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Records the values of a step, which are finite."""

    def flush(self) -> None:
        """Makes what was written survive a kill, if the program can promise that."""

    def close(self) -> None:
        """Ends the run."""


@dataclass(frozen=True)
class Run:
    """Says what a run is called.

    Attributes:
        folder: the run's folder.
        resume_step: rows after it are dropped and come again; -1: the run begins.
    """

    folder: Path
    resume_step: int

    @property
    def name(self) -> str:
        """Returns the last part of the folder's path; for trial_0 and the like, the last three
        parts.
        """
        parts = self.folder.absolute().parts
        return "/".join(parts[-3:] if parts[-1].startswith("trial_") else parts[-1:])

    @property
    def group(self) -> str | None:
        """Returns the name of the suite to which the run belongs."""
        return os.environ.get(GROUP_VARIABLE) or None

    @property
    def key(self) -> str:
        """Returns 16 hexadecimal digits made of the folder, by which a resumed run is found."""
        return hashlib.sha256(str(self.folder.absolute()).encode()).hexdigest()[:16]


class TensorBoardLogger:
    """Writes event files into the run's folder."""

    def __init__(self, run: Run) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # TensorBoard drops the step that it is given as well.
        self._writer = SummaryWriter(str(run.folder), purge_step=run.resume_step + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """See `Logger`."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def flush(self) -> None:
        """See `Logger`."""
        self._writer.flush()

    def close(self) -> None:
        """See `Logger`."""
        self._writer.close()


class WandbLogger:
    """Writes a run of Weights & Biases; $WANDB_MODE=offline writes it into the run's folder."""

    def __init__(self, run: Run) -> None:
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.name,
            group=run.group,
            dir=str(run.folder),
            id=run.key,
            resume="allow",
        )
        # Its own counter refuses a step that it has had, which a resumed run takes again.
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """See `Logger`."""
        self._run.log({"step": step, **values})

    def flush(self) -> None:
        """Does nothing: what was written is sent in the background."""

    def close(self) -> None:
        """See `Logger`."""
        self._run.finish()


class TrackioLogger:
    """Writes a run of Trackio, in its local database ($TRACKIO_DIR) or in a Space
    ($TRACKIO_SPACE_ID).
    """

    def __init__(self, run: Run) -> None:
        import trackio

        # Several folders may end alike, and Trackio knows a run by its name.
        self._run = trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", PROJECT),
            name=f"{run.name}-{run.key[:6]}",
            group=run.group,
            resume="allow",
            embed=False,
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """See `Logger`."""
        self._run.log(dict(values), step=step)

    def flush(self) -> None:
        """Does nothing: what was written is sent in the background."""

    def close(self) -> None:
        """See `Logger`; the run's own `finish` would be called again when the command ends."""
        import trackio

        trackio.finish()


class MlflowLogger:
    """Writes a run of MLflow to the place that $MLFLOW_TRACKING_URI names. With a server the
    package mlflow-skinny is enough; without one MLflow keeps a database in the working directory.
    """

    def __init__(self, run: Run) -> None:
        from mlflow import MlflowClient

        self._client = MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self._client.create_experiment(name)
        tags = {"mscn.folder": run.key, **({"mscn.group": run.group} if run.group else {})}
        earlier: Sequence[Any] = ()
        if run.resume_step >= 0:
            earlier = self._client.search_runs([experiment], f"tags.`mscn.folder` = '{run.key}'")
        made = earlier[0] if earlier else None
        made = made or self._client.create_run(experiment, tags=tags, run_name=run.name)
        self._id = made.info.run_id

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """See `Logger`."""
        from mlflow.entities import Metric

        now = int(datetime.now(timezone.utc).timestamp() * 1000)
        metrics = [Metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def flush(self) -> None:
        """Does nothing: each row is stored when it is written."""

    def close(self) -> None:
        """See `Logger`."""
        self._client.set_terminated(self._id)


# by name: what makes it, the module that it needs, the package that holds that
LOGGERS: dict[str, tuple[Callable[[Run], Logger], str, str]] = {
    "tensorboard": (TensorBoardLogger, "tensorboard", "tensorboard"),
    "wandb": (WandbLogger, "wandb", "wandb"),
    "trackio": (TrackioLogger, "trackio", "trackio"),
    "mlflow": (MlflowLogger, "mlflow", "mlflow"),
}
DEFAULT = "tensorboard"


def check_loggers(text: str, key: str = "LOGGER") -> list[str]:
    """Returns the names in a list such as "tensorboard,wandb"; "": none.

    Raises:
        InputError: an unknown name, or one whose package is not installed.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        _, module, package = find(name, LOGGERS, "logger", key)
        check_installed(module, f"{key} {name}: {module}", package)
    return list(dict.fromkeys(names))


class Loggers:
    """Holds all loggers of a run; one that fails is left out from then on."""

    def __init__(self, text: str, folder: Path, resume_step: int) -> None:
        """
        Args:
            text: names, with commas between them.
        """
        self._open: dict[str, Logger] = {}
        run = Run(folder, resume_step)
        for name in check_loggers(text):
            try:
                with redirect_stdout(sys.stderr):  # standard output is for a command's results
                    self._open[name] = LOGGERS[name][0](run)
            except Exception as error:  # an optional package may fail in any way; the run goes on
                _warn(name, error)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Records the values of a step."""
        self._each(lambda one: one.write(step, values))

    def flush(self) -> None:
        """See `Logger`."""
        self._each(lambda one: one.flush())

    def close(self) -> None:
        """Ends the run in all of them."""
        self._each(lambda one: one.close())
        self._open.clear()

    def _each(self, do: Callable[[Logger], None]) -> None:
        for name, one in list(self._open.items()):
            try:
                with redirect_stdout(sys.stderr):
                    do(one)
            except Exception as error:  # an optional package may fail in any way; the run goes on
                del self._open[name]
                _warn(name, error)


def _warn(name: str, error: Exception) -> None:
    reason = str(error).strip().splitlines() or [type(error).__name__]
    logger.warning("LOGGER %s failed and is left out of this run: %s", name, reason[0])
