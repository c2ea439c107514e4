"""How features spread during training: run directories in, a figure and plain numbers out.

It reads from a run's metrics.jsonl the rows of the kNN monitor (feature_std, effective_rank,
knn20_top1) and those of training (batch_feature_std, and SimSiam's output_std). The standard
deviation of features (N, D) is near 1 / sqrt(D) if they are spread evenly, and 0 after a collapse.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pretrain.common.checkpoint import atomic_write, atomic_write_text
from pretrain.common.errors import InputError
from pretrain.common.logs import read_metrics
from pretrain.common.run_files import METRICS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLES = {
    "feature_std": "feature std of the kNN queries",
    "effective_rank": "effective rank of the kNN queries",
    "batch_feature_std": "feature std in a training batch",
    "output_std": "output std in a training batch",
}
ACCURACY = r"knn(\d+)_top1"
COLUMNS = 3
SMALLEST_SHARE = 1e-5  # values below this share of the largest singular value are not drawn
Colours = Mapping[str, Any]  # the colour of a run's line, by run


@dataclass
class Curve:
    """Holds one quantity over training; a value is None if it was not finite."""

    steps: list[int] = field(default_factory=list)
    values: list[float | None] = field(default_factory=list)


@dataclass
class Spectrum:
    """Holds the singular values of the centred features of some images, as decreasing shares of
    their sum.
    """

    images: int
    effective_rank: float
    shares: list[float]


@dataclass
class RunCurves:
    """Holds the data drawn for one run: `curves` and `references` (1 / sqrt(D)) by quantity."""

    run: str
    curves: dict[str, Curve]
    references: dict[str, float] = field(default_factory=dict)
    spectrum: Spectrum | None = None

    def last(self) -> str:
        """Returns one line for people: the last value of each curve."""
        ends = {name: curve.values[-1] for name, curve in self.curves.items()}
        shown = [f"{n} {'nan' if value is None else f'{value:.3g}'}" for n, value in ends.items()]
        return f"{self.run}: {', '.join(shown)}"


def read_curves(run: str | Path) -> dict[str, Curve]:
    """Returns the curves of a pretraining run directory.

    Raises:
        InputError: metrics.jsonl is missing or unreadable, or has none of these quantities.
    """
    path = Path(run) / METRICS
    try:
        if not path.is_file():
            raise InputError(
                f"{path} does not exist; give --run an output folder of tools/train_ssl.py"
            )
        rows = read_metrics(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error}); remove the damaged lines") from error
    curves: dict[str, Curve] = {}
    for row in rows:
        for quantity, value in row.items():
            if "step" in row and (quantity in TITLES or re.fullmatch(ACCURACY, quantity)):
                curve = curves.setdefault(quantity, Curve())
                curve.steps.append(row["step"])
                curve.values.append(value)
    if not curves:
        known = ", ".join([*TITLES, "knn20_top1"])
        raise InputError(
            f"{path} has no row with any of {known}; give --run the folder of a pretraining run"
        )
    return curves


def write_curves(runs: Sequence[RunCurves], path: str | Path) -> Path:
    """Writes the drawn data as JSON: a list with one entry per run."""
    text = json.dumps([asdict(run) for run in runs], indent=1, allow_nan=False)
    atomic_write_text(path, text + "\n")
    return Path(path)


def draw_curves(runs: Sequence[RunCurves], path: str | Path) -> Path:
    """Writes one PNG with a panel for each quantity that any run has, and a line for each run."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    found = dict.fromkeys(quantity for run in runs for quantity in run.curves)
    quantities = [name for name in TITLES if name in found]
    quantities += [name for name in found if name not in TITLES]
    panels = len(quantities) + any(run.spectrum is not None for run in runs)
    columns = min(panels, COLUMNS)
    lines = -(-panels // columns)
    figure = Figure(figsize=(4.6 * columns, 3.3 * lines + 0.5), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).flatten()
    palette = colormaps["tab10" if len(runs) <= 10 else "tab20"]
    colours = {run.run: palette(i % palette.N) for i, run in enumerate(runs)}
    for axis, quantity in zip(axes, quantities):
        _draw_quantity(axis, quantity, runs, colours)
    if panels > len(quantities):
        _draw_spectra(axes[panels - 1], runs, colours)
    for axis in axes[panels:]:
        axis.remove()
    lines_of = [axes[0].plot([], [], color=colours[run.run], label=run.run)[0] for run in runs]
    figure.legend(handles=lines_of, loc="outside lower center", ncols=min(len(runs), 2 * columns))
    atomic_write(path, lambda file: figure.savefig(file, format="png", dpi=100))
    return Path(path)


def _draw_quantity(axis: Axes, quantity: str, runs: Sequence[RunCurves], colours: Colours) -> None:
    accuracy = re.fullmatch(ACCURACY, quantity)
    title = f"kNN top-1, {accuracy[1]} neighbours (%)" if accuracy else TITLES[quantity]
    for run in runs:
        curve = run.curves.get(quantity)
        if curve is not None:
            values = [math.nan if value is None else value for value in curve.values]
            marker = "o" if len(values) <= 30 else None
            axis.plot(curve.steps, values, marker=marker, markersize=3, color=colours[run.run])
    for reference in sorted(
        {run.references[quantity] for run in runs if quantity in run.references}
    ):
        label = f"1/$\\sqrt{{D}}$, D = {reference ** -2:.0f}"
        axis.axhline(reference, color="grey", linestyle="--", linewidth=1)
        axis.annotate(
            label,
            (1, reference),
            (-3, -3),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            ha="right",
            va="top",
            color="grey",
            fontsize=8,
        )
    axis.set(title=title, xlabel="step")
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)


def _draw_spectra(axis: Axes, runs: Sequence[RunCurves], colours: Colours) -> None:
    spectra = {run.run: run.spectrum for run in runs if run.spectrum is not None}
    top = max(spectrum.shares[0] for spectrum in spectra.values())
    for name, spectrum in spectra.items():
        # After centring, the last value is only rounding errors, so it is not drawn.
        shown = [s if s > top * SMALLEST_SHARE else math.nan for s in spectrum.shares]
        axis.plot(range(1, len(shown) + 1), shown, color=colours[name])
    if top > 0:
        axis.set_yscale("log")
    images = "/".join(sorted({str(spectrum.images) for spectrum in spectra.values()}))
    axis.set(title=f"singular values of {images} images' features", xlabel="index")
    axis.set_ylabel("share of the sum")
    axis.grid(alpha=0.3)
