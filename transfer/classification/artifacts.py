"""The files that a trial writes beside its record, for the report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from pretrain.common.checkpoint import atomic_write_text
from transfer.checkpoints.weights import Weights
from transfer.classification.features.spectrum import write_spectrum
from transfer.classification.replicates import draw_replicates
from transfer.classification.score import Score
from transfer.results.artifacts import copy_pretrain_artifacts, draw_kernels, write_curves


def write_artifacts(
    folder: Path,
    *,
    config: str,
    weights: Weights,
    source: str,
    score: Score,
    names: Sequence[str],
    features: Tensor | None,
    draws: int,
) -> dict[str, str]:
    """Makes `folder` and writes the files into it; returns {artifact: file name}.

    Args:
        config: the trial's, as YAML text.
        source: the file that the weights are from, or "random".
        names: of the M test images.
        features: of the test images, (M, D); None: no spectrum is written.
        draws: of the bootstrap; 0: no replicates are written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write_text(folder / "config.yaml", config)
    draw_kernels(weights, folder / "kernels.png")
    artifacts = {"config": "config.yaml", "kernels": "kernels.png"}
    artifacts.update(copy_pretrain_artifacts(source, folder))
    replicates = draw_replicates(score.outcomes, names, score.metrics, draws)
    if replicates is not None:
        artifacts["replicates"] = replicates.write(folder).name
    if features is not None:
        artifacts["spectrum"] = write_spectrum(features, folder).name
    if score.curve:
        write_curves(folder / "curves.json", score.curve)
        artifacts["curves"] = "curves.json"
    if score.notes:
        atomic_write_text(folder / "selection.json", json.dumps(score.notes, indent=1) + "\n")
        artifacts["selection"] = "selection.json"
    return artifacts
