"""The report's flags: reasons to doubt a number, one line for each protocol."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from pretrain.common.command_names import as_started
from transfer.report.configs import MAX_SHOWN
from transfer.report.rows_columns_cells import Cell, Checkpoint, Protocol, Results
from transfer.results.data_of_records import how_they_differ
from transfer.results.group import (
    DETERMINISTIC_TASKS,
    LEAST_TRIALS,
    MANY_ROWS,
    TRIALS_OF_MANY,
    ProtocolKey,
)
from transfer.results.statistics import TRIALS

# Least number of correct, and of wrong, images: with fewer, the interval misses the true value in
# up to 12 % of simulations
LEAST_DECIDING = 10
BETWEEN = " · "  # between two flags of a line
BOXES = ("bbox/AP", "segm/AP", "keypoints/AP", "sem_seg/mIoU")
# MSRA's ResNet-50 under MoCo's VOC protocol (facebookresearch/moco, detection/README.md: AP 53.5,
# standard deviation of a trial 0.2): a difference of five deviations means a different set-up, not
# chance. The baseline's records have the protocol's name; the format identifies its weights.
MSRA_PROTOCOL, MSRA_SOURCE, MSRA_AP, MSRA_REACH = "voc_mscn", "msra", 53.5, 1.0


@dataclass(frozen=True)
class Flag:
    """Is a reason to doubt a number: `text` is a sentence, `kind` names it in a few words.

    `column` is the short label of the protocol; "" if the flag is about the checkpoints.
    """

    column: str
    kind: str
    text: str


@dataclass(frozen=True)
class FlagLine:
    """Holds all flags of one column."""

    column: str
    flags: tuple[Flag, ...]

    @property
    def kinds(self) -> str:
        """Returns the kinds of flags in a few words, each once with its count."""
        counts = Counter(flag.kind for flag in self.flags)
        return ", ".join(f"{kind} ({n} times)" if n > 1 else kind for kind, n in counts.items())

    def __str__(self) -> str:
        text = BETWEEN.join(flag.text for flag in self.flags)
        return f"{self.column}: {text}" if self.column else text


def find_flags(results: Results) -> list[FlagLine]:
    """Returns a line for each column that has flags, in the table's order.

    Flags about checkpoints and about columns of different data come last.
    """
    flags = []
    for protocol in results.protocols:
        cells = results.column(protocol)
        flags += _changed(protocol) + _shortened(protocol, cells)
        for row, cell in cells:
            flags += _below_random(results, row, protocol, cell)
            flags += _far_from_msra(row, protocol, cell)
            flags += _at_chance(row, protocol, cell)
            flags += _in_both(row, protocol, cell)
        flags += _few_images_decide(protocol, cells)
        if protocol.task not in DETERMINISTIC_TASKS:
            flags += _few_trials(protocol, cells)
    lines: dict[str, list[Flag]] = defaultdict(list)
    for flag in flags:
        lines[flag.column].append(flag)
    found = [FlagLine(column, tuple(members)) for column, members in lines.items()]
    rest = _different_data(results) + _unproved(results)
    return found + [FlagLine("", (flag,)) for flag in rest]


def _different_data(results: Results) -> list[Flag]:
    """Returns flags for columns that differ only in their data: their rows and differences."""
    groups: dict[ProtocolKey, list[Protocol]] = defaultdict(list)
    for protocol in results.protocols:
        groups[protocol.key._replace(data="")].append(protocol)
    flags = []
    for key, columns in groups.items():
        if len(columns) < 2:
            continue
        shown = []
        for column in columns:
            rows = ", ".join(row.label for row, _ in results.column(column))
            counts = [f"{s} {found.counts()}" for s, found in column.fingerprints.items()]
            shown.append(f"{column.label} ({', '.join(counts) or 'data unknown'}): {rows}")
        known = [column for column in columns if column.fingerprints]
        told = (
            how_they_differ(
                known[0].fingerprints,
                other.fingerprints,
                (f"in {known[0].label}", f"in {other.label}"),
            )
            for other in known[1:]
        )
        how = "; ".join(filter(None, told))
        text = (
            f"different data with one name ({key.name}, {key.dataset}), never averaged or "
            f"compared: {'; '.join(shown)}{f'; the difference: {how}' if how else ''}"
        )
        flags.append(Flag("", "different data with one name", text))
    return flags


def _in_both(row: Checkpoint, protocol: Protocol, cell: Cell) -> list[Flag]:
    """Returns flags for test images that are also training images, as the records counted them."""
    data = [file.record.get("data") or {} for file in cell.files]
    count = max((each.get("in_both") or 0 for each in data), default=0)
    if not count:
        return []
    images = protocol.fingerprints["test"].images
    finds = ", and kNN finds them" if protocol.task == "knn" else ""
    text = (
        f"{row.label}: {count} of the {images} test images are also training "
        f"images{finds}: the result says little about new images"
    )
    return [Flag(protocol.short, "test images are training images", text)]


def _changed(protocol: Protocol) -> list[Flag]:
    if protocol.changed:
        words = list(protocol.changed)
        if len(words) > MAX_SHOWN:
            words[MAX_SHOWN:] = [f"and {len(words) - MAX_SHOWN} more keys"]
        text = f"differs from the config of this name: {', '.join(words)}"
        return [Flag(protocol.short, "differs from the config of its name", text)]
    if protocol.published and not protocol.config_known:
        text = (
            "no config.yaml was kept, so it is not known whether batch size and schedule are those "
            "of the published rows"
        )
        return [Flag(protocol.short, "no config was kept", text)]
    return []


def _few_trials(protocol: Protocol, cells: Sequence[tuple[Checkpoint, Cell]]) -> list[Flag]:
    """Returns flags for rows with too few trials, and for many rows with few trials each."""
    counts = {row.label: len(cell.files) for row, cell in cells}
    few = [f"{label} {count}" for label, count in counts.items() if count < LEAST_TRIALS]
    rows = [count for count in counts.values() if count >= LEAST_TRIALS]
    flags = []
    if few:
        text = (
            f"too few trials for a claim about a checkpoint (at least {LEAST_TRIALS}): "
            f"{', '.join(few)}"
        )
        flags.append(Flag(protocol.short, "too few trials", text))
    if len(rows) >= MANY_ROWS and min(rows) < TRIALS_OF_MANY:
        text = (
            f"{len(rows)} rows are compared, some with {min(rows)} trials; all pairs are corrected "
            f"for, so {TRIALS_OF_MANY} trials each would resolve more differences"
        )
        flags.append(Flag(protocol.short, "many rows for few trials", text))
    return flags


def _shortened(protocol: Protocol, cells: Sequence[tuple[Checkpoint, Cell]]) -> list[Flag]:
    cut = {
        row.label: [f.record["trial"] for f in cell.files if f.record["status"] == "shortened"]
        for row, cell in cells
    }
    words = [f"{label} (trial {', '.join(map(str, t))})" for label, t in cut.items() if t]
    text = f"shortened schedule or data: {', '.join(words)}"
    return [Flag(protocol.short, "shortened", text)] if words else []


def _below_random(results: Results, row: Checkpoint, protocol: Protocol, cell: Cell) -> list[Flag]:
    if row.untrained:
        return []
    flags = []
    for other in (r for r in results.checkpoints if r.untrained and r.backbone == row.backbone):
        floor = results.cell(other, protocol)
        for metric in BOXES:
            if floor and metric in cell.summaries and metric in floor.summaries:
                mine, theirs = cell.summaries[metric].mean, floor.summaries[metric].mean
                if mine < theirs:
                    low, high = _apart(mine, theirs)
                    text = (
                        f"{row.label}: {metric} {low} is below the random initialisation "
                        f"({other.label}, {high}): check that the weights were loaded, and that "
                        "images are normalised as in their training"
                    )
                    flags.append(Flag(protocol.short, "below the random initialisation", text))
    return flags


def _apart(one: float, two: float) -> tuple[str, str]:
    """Returns both numbers with enough decimals, at least one, to show that they differ."""
    texts = ((f"{one:.{digits}f}", f"{two:.{digits}f}") for digits in range(1, 6))
    return next((pair for pair in texts if pair[0] != pair[1]), (repr(one), repr(two)))


def _far_from_msra(row: Checkpoint, protocol: Protocol, cell: Cell) -> list[Flag]:
    msra = row.source == MSRA_SOURCE and row.backbone == "resnet50"
    if not msra or protocol.name != MSRA_PROTOCOL or "bbox/AP" not in cell.summaries:
        return []
    value = cell.summaries["bbox/AP"].mean
    if abs(value - MSRA_AP) <= MSRA_REACH:
        return []
    text = (
        f"{row.label}: AP {value:.1f} is far from the {MSRA_AP} that MoCo published for MSRA's "
        "weights: check batch size, learning rate and data first"
    )
    return [Flag(protocol.short, "far from the published baseline", text)]


def _few_images_decide(protocol: Protocol, cells: Sequence[tuple[Checkpoint, Cell]]) -> list[Flag]:
    """Returns flags for accuracies near 0 or 100 % on few images, where a bootstrap fails."""
    words = []
    for row, cell in cells:
        for metric, sample in cell.samples.items():
            mean = cell.summaries[metric].mean
            rarer = min(mean, 100.0 - mean) / 100.0 * (sample.images or math.inf)
            if metric.endswith(("top1", "top5")) and rarer < LEAST_DECIDING:
                words.append(f"{row.label} {metric} {mean:.1f} of {sample.images} images")
    if not words:
        return []
    if len(words) > MAX_SHOWN:
        words[MAX_SHOWN:] = [f"and {len(words) - MAX_SHOWN} more"]
    text = (
        f"fewer than {LEAST_DECIDING} test images are correct, or wrong, so the interval may be "
        f"too narrow: {', '.join(words)}"
    )
    return [Flag(protocol.short, "few images decide", text)]


def _at_chance(row: Checkpoint, protocol: Protocol, cell: Cell) -> list[Flag]:
    if protocol.task != "knn" or row.untrained:
        return []
    flags = []
    per_class = cell.files[0].record["per_class"] or {}
    for metric, summary in cell.summaries.items():
        classes = len(per_class.get(metric, ()))
        if classes < 2 or not metric.endswith("top1"):
            continue
        chance = 100.0 / classes
        low = summary.mean if summary.low is None or summary.covers == TRIALS else summary.low
        if low <= chance or summary.mean < 1.1 * chance:
            text = (
                f"{row.label}: {metric} {summary.mean:.1f} is at chance ({chance:.1f}): the "
                "features are useless, or were read wrongly"
            )
            flags.append(Flag(protocol.short, "at chance", text))
    return flags


def _unproved(results: Results) -> list[Flag]:
    flags = []
    none = [row.label for row in results.checkpoints if row.proof == "none"]
    if none:
        text = (
            f"converted without proof: {', '.join(none)}; python tools/convert_weights.py FILE "
            "--check proves them, and a converted file stores the proof"
        )
        flags.append(Flag("", "converted without proof", as_started(text)))
    unknown = [row.label for row in results.checkpoints if row.proof is None]
    if unknown:
        text = f"proof not known (records of schema 1): {', '.join(unknown)}"
        flags.append(Flag("", "proof not known", text))
    return flags
