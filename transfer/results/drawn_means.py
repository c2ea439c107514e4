"""Bootstrap draws of the means of a column's rows, with other trials and other test images.

A draw takes the trials and the images at random, independently of each other, with the variances of
`statistics` and `pooled`, by which the report also compares two rows:

- **Trials**: Student's t with the column's pooled standard deviation, or with the row's own if
  Bartlett's test rejects that all rows spread alike. Resampling three trials would give 2/3 of
  their variance.
- **Test images**: one of the stored replicates of the row's mean. Rows of the same images take the
  same replicate, so that images which are hard for all do not change their order.

What is not known adds nothing: a single trial in a column without spread, or rows without
replicates.

Legend: k rows, n trials of a row, B draws.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from transfer.results.comparison import LEAST_DRAWS, Sample, chances, spread_of
from transfer.results.statistics import images_variance, interaction, variance_parts


def draw_means(
    samples: Sequence[Sample], certain: bool, draws: int, rng: np.random.Generator
) -> np.ndarray:
    """Returns float64 (B, k): the rows' means in each draw.

    Args:
        samples: the rows of one column.
        certain: the task is deterministic on given weights; a single trial adds no variance.
    """
    means = np.array([math.fsum(sample.values) / len(sample.values) for sample in samples])
    by_trials = _by_trials(samples, certain, draws, rng)
    by_images = _by_images(samples, draws, rng)
    found: np.ndarray = means + by_trials + by_images
    return found


def _by_trials(
    samples: Sequence[Sample], certain: bool, draws: int, rng: np.random.Generator
) -> np.ndarray:
    """Returns (B, k): the changes that different trials would make."""
    counts = [len(sample.values) for sample in samples]
    normal = rng.standard_normal((draws, len(samples)))
    pooled = spread_of(samples)
    if pooled is not None and pooled.is_equal:
        weights = [0.0 if n is None else 1 / n for n in chances(counts, certain)]
        variances = pooled.variance * np.array(weights)
        # One standard deviation for all rows: its error is common to them
        spread = rng.chisquare(pooled.df, (draws, 1)) / pooled.df
    else:
        parts = [variance_parts(sample.values, None).trials for sample in samples]
        variances = np.array([part or 0.0 for part in parts])
        df = np.maximum(np.array(counts) - 1, 1)
        spread = rng.chisquare(df, (draws, len(samples))) / df
    found: np.ndarray = normal * np.sqrt(variances / spread)
    return found


def _by_images(samples: Sequence[Sample], draws: int, rng: np.random.Generator) -> np.ndarray:
    """Returns (B, k): the changes that different test images would make."""
    found = np.zeros((draws, len(samples)))
    same: dict[object, list[int]] = defaultdict(list)
    for place, sample in enumerate(samples):
        if sample.replicates is not None and sample.replicates.shape[1] >= LEAST_DRAWS:
            same[sample.draws].append(place)
    for places in same.values():
        replicates = {place: samples[place].replicates for place in places}
        count = min(r.shape[1] for r in replicates.values() if r is not None)
        taken = rng.integers(count, size=draws)
        for place, matrix in replicates.items():
            assert matrix is not None
            mean = matrix[:, :count].mean(axis=0)
            variance = images_variance(mean, interaction(matrix), samples[place].images)
            if variance is not None:
                scale = math.sqrt(variance / float(mean.var(ddof=1)))
                found[:, place] = scale * (mean[taken] - mean.mean())
    return found
