"""The files that a trial writes next to its record, for the report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from pretrain.common.checkpoint import atomic_write_text
from transfer.classification.features.spectrum import write_spectrum
from transfer.classification.replicates import draw_replicates
from transfer.classification.score import Score


def write_artifacts(
    folder: Path,
    score: Score,
    *,
    names: Sequence[str],
    features: Tensor | None,
    draws: int,
    class_names: Mapping[str, str],
) -> dict[str, str]:
    """Writes the files into `folder`; returns {artifact: file name}.

    Args:
        names: names of the M test images.
        features: features of the test images, (M, D); None: no spectrum is written.
        draws: number of bootstrap draws; 0: no replicates are written.
        class_names: {class: its readable name}, for the report's figures; {}: none is known.
    """
    artifacts = {}
    replicates = draw_replicates(score.outcomes, names, score.metrics, draws)
    if replicates is not None:
        artifacts["replicates"] = replicates.write(folder).name
    if features is not None:
        artifacts["spectrum"] = write_spectrum(features, folder).name
    if score.notes:
        atomic_write_text(folder / "selection.json", json.dumps(score.notes, indent=1) + "\n")
        artifacts["selection"] = "selection.json"
    if score.head is not None:
        artifacts["head"] = score.head.write(folder).name
    if class_names:
        text = json.dumps(dict(class_names), ensure_ascii=False, indent=1) + "\n"
        atomic_write_text(folder / "class_names.json", text)
        artifacts["class_names"] = "class_names.json"
    return artifacts
