"""Converts a weights file to a different layout; proves the result equal before and after writing.

What becomes of keys that match nothing: `unmatched_keys.py`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import nn

from pretrain.common.errors import InputError
from pretrain.common.printable import printable
from pretrain.common.temporaries import temporary_folder
from transfer.checkpoints.build import padding_difference
from transfer.checkpoints.networks.vit_architectures import vitdet_lacks
from transfer.checkpoints.opened import OpenedWeights
from transfer.checkpoints.proof import (
    TOLERANCE,
    ProofError,
    StageDifference,
    photo,
    prove,
    source_network,
)
from transfer.checkpoints.read import read, read_weights
from transfer.checkpoints.weights import Weights, default_name, facts_of
from transfer.checkpoints.writers import layout_of, suffixes_of, write_weights

MOST_OF_LINE = 10_000  # characters of a line of the report


@dataclass(frozen=True)
class Report:
    """Is the report of a conversion and its proof.

    Attributes:
        file: the local file of `path`, which may be remote.
        proofs: by layout, one row per input and stage.
        written: the output's path, None when only checked.
    """

    path: str
    file: Path
    format: str
    weights: Weights
    proofs: dict[str, list[StageDifference]]
    notes: tuple[str, ...] = ()
    written: str | None = None

    @property
    def headline(self) -> str:
        """Returns one line about the input: format, method, backbone, identity."""
        ours = " (this project)" if self.format == "mscn" else ""
        method = self.weights.provenance.get("method")
        known = f", method {method}" if method else ""
        sha256 = self.weights.sha256[:16]
        return f"format {self.format}{ours}{known}, {self.weights.backbone}, sha256 {sha256}"

    @property
    def failures(self) -> list[StageDifference]:
        """Returns the rows above the tolerance."""
        return [row for rows in self.proofs.values() for row in rows if not row.passed]

    def __str__(self) -> str:
        """The report for people, over several lines; names from the file are made printable."""
        account = self.weights.account
        lines = [f"{self.path}: {self.headline}"]
        lines += [f"  {line}" for line in (account.lines() if account else ())]
        for layout, rows in self.proofs.items():
            lines.append(f"  {layout:>15} {'input':<28}{'stage':<8}{'max abs':>9}{'relative':>10}")
            for row in rows:
                mark = "" if row.passed else "  DIFFERS"
                numbers = f"{row.max_abs:9.1e}{row.relative:10.1e}{mark}"
                lines.append(f"  {'':>15} {row.inputs:<28}{row.stage:<8}{numbers}")
        lines += [f"  warning: {warning}" for warning in (*self.weights.warnings, *self.notes)]
        if self.written:
            lines.append(f"wrote {self.written}, read back equal")
        elif not self.failures:
            lines.append("proven equal; nothing written (--check)")
        return "\n".join(printable(line, MOST_OF_LINE) for line in lines)

    def to_dict(self) -> dict[str, Any]:
        """Returns the report for JSON."""
        account = self.weights.account
        assert account is not None, "weights that were read have an account"
        return {
            "input": self.path,
            "format": self.format,
            "name": default_name(self.weights, self.path),
            **facts_of(self.weights),
            "account": {
                "expected": account.expected,
                "used": list(account.used),
                "dropped": {rule: list(keys) for rule, keys in account.dropped.items()},
                "unexplained": [],
                "notes": list(account.notes),
            },
            "tolerance": TOLERANCE,
            "proof": {name: [asdict(row) for row in rows] for name, rows in self.proofs.items()},
            "proven": not self.failures,
            "warnings": [*self.weights.warnings, *self.notes],
            "written": self.written,
        }


Prover = Callable[[nn.Module, Weights], list[StageDifference]]


def check(
    path: str | OpenedWeights,
    suffixes: Sequence[str],
    source: str = "auto",
    trust: bool = False,
    more: Mapping[str, Prover] = MappingProxyType({}),
    prefix: str | None = None,
    num_heads: int | None = None,
) -> Report:
    """Reads a file and proves its conversion to the suffixes' layouts; writes nothing.

    Args:
        suffixes: keys of `writers.LAYOUTS`; empty: the first one in which the backbone can be
            written.
        more: further proofs in Detectron2, by name: they take the source network and the weights,
            and return rows. They are run for backbones that are written for Detectron2.
        prefix, num_heads: see `read_weights`.

    Raises:
        InputError: see `read_weights`.
        ProofError: the converted names or shapes are not the layout's.
    """
    reading = read(path, source, trust=trust, prefix=prefix, num_heads=num_heads)
    weights = reading.weights
    network = source_network(reading.found, weights)
    known = suffixes_of(weights.backbone)
    # A check asks for several layouts; those in which the backbone cannot be written are left out.
    wanted = suffixes if len(suffixes) == 1 else [s for s in suffixes or known[:1] if s in known]
    layouts = dict.fromkeys(layout_of(f"x{suffix}", weights.backbone) for suffix in wanted)
    proofs = {layout: prove(network, weights, layout) for layout in layouts}
    for name, prover in more.items() if ".pkl" in known else ():
        if rows := prover(network, weights):
            proofs[name] = rows
    format_name = reading.found.format.name
    return Report(str(path), reading.file, format_name, weights, proofs, _notes(weights, layouts))


def write_proven(report: Report, output: str | Path) -> Report:
    """Writes the weights of a passed proof, reads the file back, and only then puts it in place.

    Raises:
        ProofError: the proof had failed, or the file read back holds different weights or facts.
        InputError: unknown suffix, or the output is the input.
    """
    output = Path(output)
    if report.failures or layout_of(output, report.weights.backbone) not in report.proofs:
        raise ProofError(f"nothing written to {output}: the conversion is not proven")
    if output.exists() and output.samefile(report.file):
        raise InputError(f"{output} is the input; give the output a different name")
    output.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(output) as folder:
        draft = folder / output.name
        write_weights(report.weights, draft)
        again = read_weights(str(draft))
        if facts_of(again) != facts_of(report.weights):
            raise ProofError(f"nothing written to {output}: the file that was read back differs")
        os.replace(draft, output)
    return replace(report, written=str(output))


def _notes(weights: Weights, layouts: Iterable[str]) -> tuple[str, ...]:
    """Returns notes on what a user of the output must do that the tensors do not show."""
    notes = []
    if weights.preprocess.highpass is not None and "detectron2" in layouts:
        notes.append(
            "these weights need high-pass filtered input, but plain Detectron2 does not filter: it "
            "ignores the facts in the .pkl; tools/train_det.py applies the filter"
        )
    if weights.architecture.get("stride_in_1x1"):
        notes.append(
            "bottlenecks stride in their first 1x1 convolution: Detectron2 needs "
            "MODEL.RESNETS.STRIDE_IN_1X1 True; torchvision's ResNet computes something different"
        )
    if weights.architecture.get("padding"):
        image = weights.preprocess.apply(photo(224, 224)[None])
        moved = padding_difference(weights, image)
        notes.append(
            f"trained with TensorFlow's padding ({weights.architecture['padding']}); with torch's, "
            f"which all other tools use, the pooled features of a 224 px photo change by "
            f"{100 * moved:.1f} % of the largest (not at all if all sides are odd)"
        )
    if "vitdet" in layouts:
        notes.append(
            "ViTDet uses neither class token nor last norm, and adds windows and relative "
            "positions: the proof covers the shared tensors, not its features"
        )
    if "last_norm_eps" in weights.architecture:
        eps = weights.architecture["last_norm_eps"]
        notes.append(f"the norm after pooling has eps {eps:g} (timm's: 1e-6)")
    if lacks := vitdet_lacks(weights.backbone):
        notes.append(f"no .pkl for ViTDet: a {weights.backbone} has {lacks}, but ViTDet does not")
    if "norm_eps" in weights.architecture:
        notes.append(f"the LayerNorms have an epsilon of {weights.architecture['norm_eps']:g}")
    if "num_heads" in weights.architecture:
        notes.append(f"the attention has {weights.architecture['num_heads']} heads")
    return tuple(notes)
