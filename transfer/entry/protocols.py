"""Runs a protocol on a checkpoint, and reports what was measured: what the commands do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pretrain.common.config import find_config, has_section, override_words
from transfer.checkpoints.files import RANDOM
from transfer.report.run import Written, write_report
from transfer.results.read_records import Records, read_records
from transfer.trials.command import run_command
from transfer.trials.task import Request
from transfer.trials.tasks import task_of


def run_protocol(
    config: str | Path,
    weights: str | Path = RANDOM,
    output: str | Path | None = None,
    *,
    name: str | None = None,
    trials: int = 1,
    engine: str = "auto",
    num_gpus: int = 1,
    resume: bool = False,
    overrides: Mapping[str, Any] | Sequence[Any] = (),
) -> Records:
    """Scores a checkpoint by a protocol, and returns its records: what `tools/train_cls.py` and
    `tools/train_det.py` do.

    Args:
        config: a path, or the name of a shipped config of classification, detection or
            segmentation.
        weights: a checkpoint's file or source, or "random".
        output: the folder of the trials; None: runs/<the config's name>/<the weights' name>.
        name: name of the row in a report; None: a name from the weights.
        trials: trial t uses seed SEED + t.
        engine: engine of a detection: auto, detectron2 or torchvision.
        num_gpus: processes to start, one for each GPU; 1 is also for a CPU.
        resume: continues what is in the folder; trials that have a record are skipped.
        overrides: see `pretrain.load_config`.

    Raises:
        InputError: bad input, with the remedy; nothing was measured then.

    Example:
        >>> import transfer
        >>> few = {"PROTOCOL.K": (5,), "QUALITY.IMAGES": 0, "BACKBONE.NAME": "tiny_resnet"}
        >>> records = transfer.run_protocol("knn_digits.yaml", "random", "knn", overrides=few)
        >>> sorted(records.files[0].record["metrics"])[:2]
        ['knn5_T0.1_top1', 'knn5_T0.1_top5']
    """
    words = override_words(overrides)
    if output is None:
        output = Path("runs") / Path(config).stem / (name or Path(weights).stem)
    request = Request(
        config=str(config),
        weights=str(weights),
        output=str(output),
        name=name,
        engine=engine,
        trials=trials,
        resume=resume,
        overrides=tuple(words),
    )
    run_command(task_of(_command_of(str(config)), str(config), words), request, num_gpus)
    return read_records([output])


def make_report(
    folders: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    compare: Sequence[str] = (),
    title: str = "Transfer results",
    pictures: bool = True,
    leaderboard: bool = False,
) -> Written:
    """Writes report.html, .md, .csv and .tex of all records below some folders.

    Returns the page's path, the tables as text (`print(made.table)`) and notes.

    Args:
        compare: the names of two rows, whose difference is shown (see `row_named`).
        pictures: whether views and detections are shown, which show the data.
        leaderboard: whether all checkpoints are ranked over all tasks, too (leaderboard.html).

    Raises:
        InputError: no record is there, records contradict, no row has such a name, or a
            leaderboard has too few checkpoints or tasks.

    Example:
        >>> import transfer
        >>> short = {"PROTOCOL.K": (5,), "QUALITY.IMAGES": 0, "BACKBONE.NAME": "tiny_resnet"}
        >>> _ = transfer.run_protocol("knn_digits.yaml", "random", "rows/knn", overrides=short)
        >>> made = transfer.make_report("rows", "report")
        >>> print(made.page)
        report/report.html
    """
    places = [folders] if isinstance(folders, (str, Path)) else folders
    return write_report(
        places, output, pair=compare, title=title, pictures=pictures, leaderboard=leaderboard
    )


def _command_of(config: str) -> str:
    """Returns the command that a config is for: det if a file of its chain has the section
    MODEL.
    """
    return "det" if has_section(find_config(config), "MODEL") else "cls"
