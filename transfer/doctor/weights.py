"""Adds rows that say whether a weights file can be read, and what its proof says."""

from __future__ import annotations

import importlib.util

from transfer.checkpoints.convert import Prover, check
from transfer.checkpoints.opened import OpenedWeights
from transfer.checkpoints.proof import ProofError
from transfer.detection.weights.detector_file import BACKBONE, kind_of
from transfer.detection.weights.starting_weights import wrong_backbone
from transfer.doctor.rows import FAIL, OK, WARN, Rows


def check_weights(rows: Rows, source: OpenedWeights, wanted: str | None) -> str | None:
    """Adds rows for the file, its proof and its warnings; returns its backbone if it is readable.

    Args:
        wanted: the backbone that the config builds; None: any.
    """
    if source.is_random:
        rows.add("weights", OK, "random: the untrained backbone")
        return wanted
    with rows.about("weights"):
        if kind_of(source) != BACKBONE:
            rows.add(
                "weights", OK, f"{source}: a complete Detectron2 model, which is not converted"
            )
            return None
        try:
            report = check(source, (), more=_provers())
        except ProofError as error:
            rows.add("weights", FAIL, str(error))
            return None
        weights, account = report.weights, report.weights.account
        lines = account.lines() if account else []
        rows.add("weights", OK, "; ".join([report.headline, *lines]))
        found = [row for proof in report.proofs.values() for row in proof]
        worst = max((row.relative for row in found), default=0.0)
        text = f"largest relative difference {worst:.1e} over {len(found)} comparisons"
        proofs = ", ".join(report.proofs)
        if report.failures:
            rows.add("proof", FAIL, f"not equal as {proofs}: {text}")
        else:
            word = OK if found else WARN
            rows.add("proof", word, f"proven equal as {proofs}: {text}" if found else "none made")
        for warning in (*weights.warnings, *report.notes):
            rows.add("weights", WARN, warning)
        wrong = wrong_backbone(source, weights.backbone, wanted) if wanted else None
        if wrong:
            rows.add("weights", FAIL, wrong)
        return weights.backbone
    return None


def _provers() -> dict[str, Prover]:
    """Returns the proof in Detectron2 itself, if it can be imported."""
    if importlib.util.find_spec("detectron2") is None:
        return {}
    from transfer.detection.detectron2_proof import prove_in_detectron2

    return {"real detectron2": prove_in_detectron2}
