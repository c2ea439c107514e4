"""What a reader should know before believing a number: tables in, one line per doubt out."""

from __future__ import annotations

from transfer.report.configs import belongs_to_protocol
from transfer.report.results import Cell, Checkpoint, Protocol, Results
from transfer.report.samples import CERTAIN, LEAST_TRIALS
from transfer.results.statistics import TRIALS

BOXES = ("bbox/AP", "segm/AP", "sem_seg/mIoU")
# The supervised baseline of MoCo's VOC protocol (facebookresearch/moco, detection/README.md: AP
# 53.5, standard deviation of a trial 0.2): five deviations off is another set-up, not bad luck
MSRA_CONFIG, MSRA_AP, MSRA_REACH = "voc_supervised_msra", 53.5, 1.0


def find_flags(results: Results) -> list[str]:
    """All doubts, by checkpoint and column."""
    flags = []
    for protocol in results.protocols:
        flags += _changed(protocol)
        few = []
        for row in results.checkpoints:
            cell = results.cell(row, protocol)
            if cell is None:
                continue
            flags += _shortened(row, protocol, cell)
            flags += _below_random(results, row, protocol, cell)
            flags += _far_from_msra(row, protocol, cell)
            flags += _at_chance(row, protocol, cell)
            if len(cell.entries) < LEAST_TRIALS and protocol.task not in CERTAIN:
                few.append(f"{row.label} {len(cell.entries)}")
        if few:
            flags.append(
                f"{protocol.label}: too few trials for a claim about a checkpoint (at least "
                f"{LEAST_TRIALS}): {', '.join(few)}"
            )
    return flags + _unproved(results)


def _changed(protocol: Protocol) -> list[str]:
    words = [pair for pair in protocol.overrides if belongs_to_protocol(pair.split()[0])]
    if not words:
        return []
    return [f"{protocol.label}: not the config's own protocol: {', '.join(words)}"]


def _shortened(row: Checkpoint, protocol: Protocol, cell: Cell) -> list[str]:
    cut = [e.record["trial"] for e in cell.entries if e.record["status"] == "shortened"]
    if not cut:
        return []
    trials = ", ".join(map(str, cut))
    return [f"{row.label}, {protocol.label}: shortened schedule or data (trials {trials})"]


def _below_random(results: Results, row: Checkpoint, protocol: Protocol, cell: Cell) -> list[str]:
    if row.untrained:
        return []
    flags = []
    for other in (r for r in results.checkpoints if r.untrained and r.backbone == row.backbone):
        floor = results.cell(other, protocol)
        for metric in BOXES:
            if floor and metric in cell.summaries and metric in floor.summaries:
                mine, theirs = cell.summaries[metric].mean, floor.summaries[metric].mean
                if mine < theirs:
                    flags.append(
                        f"{row.label}, {protocol.label}: {metric} {mine:.1f} is below the "
                        f"random initialisation ({other.label}, {theirs:.1f}): were the weights "
                        "loaded, and normalised as they were trained?"
                    )
    return flags


def _far_from_msra(row: Checkpoint, protocol: Protocol, cell: Cell) -> list[str]:
    if protocol.name != MSRA_CONFIG or row.untrained or "bbox/AP" not in cell.summaries:
        return []
    value = cell.summaries["bbox/AP"].mean
    if abs(value - MSRA_AP) <= MSRA_REACH:
        return []
    return [
        f"{row.label}, {protocol.label}: AP {value:.1f} is far from the {MSRA_AP} that MoCo "
        "published for MSRA's weights: check batch, learning rate and data before other rows"
    ]


def _at_chance(row: Checkpoint, protocol: Protocol, cell: Cell) -> list[str]:
    if protocol.task != "knn" or row.untrained:
        return []
    flags = []
    per_class = cell.entries[0].record["per_class"] or {}
    for metric, summary in cell.summaries.items():
        classes = len(per_class.get(metric, ()))
        if classes < 2 or not metric.endswith("top1"):
            continue
        chance = 100.0 / classes
        low = summary.mean if summary.low is None or summary.covers == TRIALS else summary.low
        if low <= chance or summary.mean < 1.1 * chance:
            flags.append(
                f"{row.label}, {protocol.label}: {metric} {summary.mean:.1f} is at chance "
                f"({chance:.1f}): the features hold nothing, or were read wrongly"
            )
    return flags


def _unproved(results: Results) -> list[str]:
    flags = []
    none = [row.label for row in results.checkpoints if row.proof == "none"]
    if none:
        flags.append(
            f"converted without proof: {', '.join(none)}; python tools/convert_weights.py FILE "
            "--check proves them, and a converted file carries that"
        )
    unknown = [row.label for row in results.checkpoints if row.proof is None]
    if unknown:
        flags.append(f"not known whether proved (records of schema 1): {', '.join(unknown)}")
    return flags
