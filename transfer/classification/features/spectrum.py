"""Writes the spectrum of frozen features to spectrum.json, for a figure of the report:

    {schema, images, dimensions, index: [1, 2, ...], singular_values: [...]}

The singular values are those of the centred features, as shares of their sum, in descending order.
`index` says which ones are kept: the first ones, then fewer and fewer, evenly on a logarithmic
axis.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from pretrain.common.checkpoint import atomic_write_text
from pretrain.common.collapse_statistics import singular_values

SCHEMA = 1
FILE_NAME = "spectrum.json"
MOST_IMAGES = 4096  # taken evenly over all; takes seconds on one core for 2048 dimensions
MOST_VALUES = 96


def write_spectrum(features: torch.Tensor, folder: Path) -> Path:
    """Writes the spectrum of features (N, D) into `folder`; returns the path."""
    rows = np.linspace(0, len(features) - 1, min(len(features), MOST_IMAGES)).round().astype(int)
    values = singular_values(features[torch.from_numpy(rows)]).tolist()
    places = np.geomspace(1, len(values), min(len(values), MOST_VALUES)).round().astype(int)
    index = np.unique(places).tolist()
    content = {
        "schema": SCHEMA,
        "images": len(rows),
        "dimensions": features.shape[1],
        "index": index,
        "singular_values": [float(f"{values[i - 1]:.6g}") for i in index],
    }
    atomic_write_text(folder / FILE_NAME, json.dumps(content) + "\n")
    return folder / FILE_NAME
