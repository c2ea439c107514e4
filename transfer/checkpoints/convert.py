"""One file in, the same weights in another layout out, proven equal before and after writing."""

from __future__ import annotations

import os
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pretrain.common.errors import InputError
from transfer.checkpoints.proof import TOLERANCE, ProofError, StageDifference, prove, source_network
from transfer.checkpoints.read import Reading, read, read_weights
from transfer.checkpoints.weights import Weights, default_name, facts_of
from transfer.checkpoints.writers import layout_of, write_weights


@dataclass(frozen=True)
class Report:
    """What a conversion did and what it proved.

    Attributes:
        proofs: layout -> one row per input and stage.
        written: the output's path, None when only checked.
    """

    path: str
    format: str
    weights: Weights
    proofs: dict[str, list[StageDifference]]
    notes: tuple[str, ...] = ()
    written: str | None = None

    @property
    def failures(self) -> list[StageDifference]:
        """The rows above the tolerance."""
        return [row for rows in self.proofs.values() for row in rows if not row.passed]

    def to_dict(self) -> dict[str, Any]:
        """The report for machines."""
        account = self.weights.account
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
            },
            "tolerance": TOLERANCE,
            "proof": {name: [asdict(row) for row in rows] for name, rows in self.proofs.items()},
            "proven": not self.failures,
            "warnings": [*self.weights.warnings, *self.notes],
            "written": self.written,
        }


def check(path: str, layouts: list[str], source: str = "auto", trust: bool = False) -> Report:
    """Reads a file and proves its conversion to each layout; writes nothing.

    Raises:
        InputError: see `read_weights`.
        ProofError: the converted names or shapes are not the layout's.
    """
    reading = read(path, source, trust=trust)
    network = source_network(reading.format, reading.tensors, reading.weights.backbone)
    proofs = {layout: prove(network, reading.weights, layout) for layout in layouts}
    return Report(path, reading.format.name, reading.weights, proofs, _notes(reading, layouts))


def write_proven(report: Report, output: str | Path) -> Report:
    """Writes the weights of a passed proof, reads the file back, and only then puts it in place.

    Raises:
        ProofError: the proof had failed, or the file read back holds other weights or facts.
        InputError: unknown suffix, or the output is the input.
    """
    output = Path(output)
    if report.failures or layout_of(output) not in report.proofs:
        raise ProofError(f"nothing written to {output}: the conversion is not proven")
    if output.exists() and output.samefile(report.path):
        raise InputError(f"{output} is the input; give the output another name")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as folder:
        draft = Path(folder) / output.name
        write_weights(report.weights, draft)
        again = read_weights(str(draft))
        if facts_of(again) != facts_of(report.weights):
            raise ProofError(f"nothing written to {output}: what was read back differs")
        os.replace(draft, output)
    return replace(report, written=str(output))


def _notes(reading: Reading, layouts: list[str]) -> tuple[str, ...]:
    if reading.weights.preprocess.highpass is None or "detectron2" not in layouts:
        return ()
    return (
        "these weights want their input high-pass filtered, which plain Detectron2 does not do: "
        "it ignores the facts in the .pkl; tools/train_det.py applies the filter",
    )
