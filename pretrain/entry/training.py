"""A whole pretraining run, from a config's name to its checkpoint: what the command does."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pretrain.common.checkpoint import load_checkpoint, previous_of
from pretrain.common.cli import PRETRAINING, interrupt_says, note_fresh_start, output_folder
from pretrain.common.config import dump_yaml, override_words
from pretrain.common.distributed import check_gpus, is_first_of_launcher, launch, under_torchrun
from pretrain.common.errors import InputError
from pretrain.common.locks import one_writer
from pretrain.common.output_path import check_output
from pretrain.common.progress import keep_progress
from pretrain.common.run_files import CHECKPOINT
from pretrain.engine.checks import load_checked
from pretrain.engine.run import check_inputs, pretrain


def run_pretraining(
    config: str | Path,
    output: str | Path | None = None,
    *,
    overrides: Mapping[str, Any] | Sequence[Any] = (),
    num_gpus: int = 1,
    resume: bool = False,
) -> Path:
    """Pretrains, and returns the path of the checkpoint.

    The folder also gets metrics.jsonl, views.png, the merged config and TensorBoard's events.

    Args:
        config: a path, or the name of a shipped config.
        output: the run's folder; None: OUTPUT_DIR of the config, else runs/<the config's name>.
        overrides: see `pretrain.load_config`.
        num_gpus: processes to start, one for each GPU; 1 is also for a CPU.
        resume: continues the run that is in the folder.

    Raises:
        InputError: bad input, with the remedy; nothing has been trained then.

    Example:
        >>> import pretrain
        >>> pretrain.make_digits("digits", classification=(40, 10, 10), scenes=(1, 1, 1))
        True
        >>> short = {"SOLVER.MAX_STEPS": 2, "SOLVER.WARMUP_STEPS": 1, "SOLVER.BATCH_SIZE": 8}
        >>> own = {"DATASETS.TRAIN": "folder:digits/digits_cls:train", "DATASETS.KNN_TRAIN": "",
        ...        "DATASETS.KNN_TEST": ""}
        >>> print(pretrain.run_pretraining("mscn_demo.yaml", "run", overrides={**short, **own}))
        run/checkpoint.pth
    """
    processes = int(os.environ.get("WORLD_SIZE", num_gpus))
    cfg = load_checked(str(config), override_words(overrides), processes)
    if not under_torchrun():
        check_gpus(num_gpus)
    given = cfg.OUTPUT_DIR or f"runs/{Path(config).stem}" if output is None else output
    folder = check_output(given)
    data = None  # the other processes of torchrun have it from the first one
    first = is_first_of_launcher()
    with (
        one_writer(*[folder] if first else []),
        keep_progress(folder, [folder / CHECKPOINT]),
        interrupt_says(lambda: _saved(folder / CHECKPOINT)),
    ):
        if first:
            data = check_inputs(cfg)
            output_folder(folder, resume, PRETRAINING)
            if resume:
                note_fresh_start(folder, [CHECKPOINT, previous_of(Path(CHECKPOINT)).name])
        launch(pretrain, processes, (dump_yaml(cfg), str(folder), resume, data))
    return folder / CHECKPOINT


def _saved(checkpoint: Path) -> str:
    """Returns where --resume will go on."""
    newest = next((f for f in (checkpoint, previous_of(checkpoint)) if f.is_file()), None)
    if newest is None:
        return "nothing was saved yet: --resume starts at step 0"
    try:
        return f"--resume continues at step {load_checkpoint(newest)['step']} of {newest}"
    except InputError as error:
        return str(error)
