"""The table of the classification protocols; each row is in the module of its protocol."""

from __future__ import annotations

from transfer.classification.protocols import (
    knn,
    kshot,
    linear,
    logistic,
    robustness,
    svm,
    train_on_crops,
)
from transfer.classification.protocols.protocol import OfTrainedHead, OnFeatures, Training

ROWS: tuple[OnFeatures | OfTrainedHead | Training, ...] = (
    knn.PROTOCOL,
    linear.PROTOCOL,
    logistic.PROTOCOL,
    kshot.PROTOCOL,
    svm.PROTOCOL,
    robustness.PROTOCOL,
    train_on_crops.PROTOCOL,
)
# The rows, by PROTOCOL.NAME
PROTOCOLS = {name: row for row in ROWS for name in row.names}
