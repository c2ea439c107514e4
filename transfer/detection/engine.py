"""The interface of an engine, which trains a detector and predicts with it; the scores are computed
elsewhere. An engine gets a config that is completed by the facts of the data and the weights, a
backbone's weights, and data sets. It writes a model file in Detectron2's layout and returns
Predictions. Both engines read the same config.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

    from transfer.checkpoints.weights import Weights
    from transfer.datasets.samples import DetectionSet
    from transfer.detection.evaluation.predictions import Predictions
    from transfer.training.files import Fitted


# Scores predictions in the middle of training; takes them and the iteration, returns metrics in
# percent.
Evaluate = Callable[["list[Predictions]", int], "dict[str, float]"]


class Engine(Protocol):
    """Trains and tests detectors. Every process calls these methods; only the first process writes
    files.
    """

    name: str
    version: str

    def fit(
        self,
        cfg: CfgNode,
        *,
        weights: Weights,
        train_set: DetectionSet,
        test_set: DetectionSet,
        output: Path,
        resume: bool,
        evaluate: Evaluate,
    ) -> Fitted:
        """Trains for SOLVER.MAX_ITER iterations and writes `output`/model_final.pth."""
        ...

    def predict(
        self, cfg: CfgNode, *, model_file: Path, test_set: DetectionSet
    ) -> list[Predictions]:
        """Returns predictions of all test images, in their order, on every process."""
        ...
