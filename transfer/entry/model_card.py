"""The model card of a backbone on a hub: its origin, its input, what is proven and measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from pretrain.common.printable import printable
from transfer.checkpoints.convert import Report
from transfer.results.group import ProtocolKey, cell_of, why_left_out
from transfer.results.metrics import headlines

USAGE = """```python
import transfer  # pip install mscn

weights = transfer.read_weights("hf-hub:{repo}")
backbone = transfer.build_backbone(weights)
features = backbone(weights.preprocess.apply(images))  # uint8 RGB (N, 3, H, W)
```"""
WORDS = {  # for the keys of a provenance
    "method": "method",
    "epochs": "epochs of pretraining",
    "pretrain_images": "images seen",
    "pretrain_seed": "seed",
    "pretrain_config_sha256": "sha256 of the pretraining config",
    "source": "format of the source",
    "file_sha256": "sha256 of the source file",
}


def write_card(repo: str, report: Report, records: Sequence[Mapping[str, Any]]) -> str:
    """Returns the card as Markdown.

    Args:
        report: the report of the conversion, whose proof has passed.
        records: result records of these weights.
    """
    weights = report.weights
    known = {WORDS[key]: value for key, value in weights.provenance.items() if key in WORDS}
    rows = [f"| {word} | {printable(str(value))} |" for word, value in known.items() if value]
    sections = [
        "---\nlibrary_name: pytorch\npipeline_tag: image-feature-extraction\n"
        "tags:\n- mscn\n- self-supervised-learning\n---",
        f"# {repo.partition('/')[2]}",
        f"The weights of a {weights.backbone} without a classifier, converted and checked by "
        "Masked Siamese ConvNets (`mscn`). The licence is that of the source: see there.",
        USAGE.format(repo=repo),
        "## Where it comes from\n\n| | |\n|---|---|\n" + "\n".join(rows),
        "## What its input must be\n\n" + _input(report),
        "## What is proven\n\n" + _proof(report),
    ]
    if weights.warnings:
        sections.append("## Warnings\n\n" + "\n".join(f"- {line}" for line in weights.warnings))
    if records:
        sections.append("## What was measured\n\n" + _results(records))
    return "\n\n".join(sections) + "\n"


def _input(report: Report) -> str:
    given = report.weights.preprocess
    low, high = given.value_range
    lines = [
        f"- channels {given.channel_order}, values {low:g} to {high:g}",
        f"- mean {', '.join(f'{v:g}' for v in given.mean)}",
        f"- standard deviation {', '.join(f'{v:g}' for v in given.std)}",
    ]
    if given.highpass is not None:
        facts = ", ".join(f"{key} {value}" for key, value in given.highpass.to_dict().items())
        lines.append(f"- then a high-pass filter: {facts}")
    return "\n".join(lines)


def _proof(report: Report) -> str:
    rows = [row for layout in report.proofs.values() for row in layout]
    worst = max(row.relative for row in rows)
    return (
        f"The source's own network and this file compute the same: over {len(rows)} comparisons "
        f"the largest relative difference is {worst:.1e}. The sha256 of the tensors, which any "
        f"conversion keeps, is `{report.weights.sha256}`."
    )


def _results(records: Sequence[Mapping[str, Any]]) -> str:
    """Returns a row for each protocol and headline metric, the mean over its trials: the records
    that a report averages, too. Protocols of one name are distinguished by their configs' sha256.
    """
    found: dict[tuple[ProtocolKey, str], list[float]] = {}
    for record in records:
        if why_left_out(record) is not None:
            continue
        _, protocol = cell_of(record)
        for name in headlines(record["task"], record["metrics"]):
            if (value := record["metrics"].get(name)) is not None:
                found.setdefault((protocol, name), []).append(value)
    names = Counter((key.name, key.dataset) for key in {key for key, _ in found})
    lines = ["| protocol | data | metric | mean | trials |", "|---|---|---|---|---|"]
    for (key, name), values in sorted(found.items()):
        apart = f" [{key.engine}, config {key.config_sha256[:7]}, data {key.data[:7] or 'unknown'}]"
        protocol_name = key.name + (apart if names[key.name, key.dataset] > 1 else "")
        cells = [printable(protocol_name), printable(key.dataset), name, f"{mean(values):.2f}"]
        lines.append(f"| {' | '.join([*cells, str(len(values))])} |")
    return "\n".join(lines)
