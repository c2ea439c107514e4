"""Converts a checkpoint with proof: any supported file in, a file in the layout of its suffix out.

The proof is also made in the real Detectron2, if it is installed and the output is for it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from pretrain.common.locks import one_writer_of
from transfer.checkpoints.convert import Prover, Report, check, write_proven
from transfer.checkpoints.files import SUFFIXES
from transfer.checkpoints.proof import ProofError
from transfer.checkpoints.weights import default_name


def convert(
    source: str | Path,
    output: str | Path | None = None,
    *,
    suffix: str = ".pkl",
    format: str = "auto",
    prefix: str | None = None,
    num_heads: int | None = None,
    trust: bool = False,
) -> Report:
    """Converts a checkpoint, after the proof that the result computes the same.

    `print` shows the report: what became of every key, and the differences that were measured.

    Args:
        source: what `transfer.read_weights` reads.
        output: a file, whose suffix names the layout: .pkl Detectron2's, .pth torchvision's (a
            ViT's: timm's), .safetensors the same names; or a folder; None: nothing is written, the
            conversion to every layout is proven.
        suffix: suffix of the file in a folder, which is named METHOD_BACKBONE_EPOCHSep.
        format: format of the source; "auto" detects it.
        prefix: prefix of the trunk's names, for a file of an unknown format.
        num_heads: number of a ViT's attention heads, if the file does not state it.
        trust: reads pickles without restrictions, which can run code from the file.

    Raises:
        InputError: the source cannot be read, or the output is the input.
        ProofError: the result would compute something else; nothing was written.

    Example:
        >>> import torch, torchvision, transfer
        >>> torch.save(torchvision.models.resnet18().state_dict(), "resnet18.pth")
        >>> report = transfer.convert("resnet18.pth", "resnet18.safetensors")
        >>> report.written, report.failures
        ('resnet18.safetensors', [])
        >>> converted = transfer.read_weights("resnet18.safetensors")
        >>> converted.sha256 == transfer.read_weights("resnet18.pth").sha256
        True
    """
    is_file = output is not None and Path(output).suffix in SUFFIXES
    suffix = Path(output).suffix if is_file and output is not None else suffix
    suffixes = SUFFIXES if output is None else [suffix]
    report = prove_conversion(str(source), suffixes, format, trust, prefix, num_heads)
    if report.failures:
        worst = max(row.relative for row in report.failures)
        raise ProofError(f"{source}: not equal ({worst:.1e} relative), nothing written\n{report}")
    if output is None:
        return report
    return write_conversion(report, output if is_file else named_in(output, report, suffix))


def prove_conversion(
    source: str,
    suffixes: Sequence[str],
    format: str = "auto",
    trust: bool = False,
    prefix: str | None = None,
    num_heads: int | None = None,
) -> Report:
    """Reads a checkpoint and proves its conversion to the layouts of the suffixes; writes nothing.

    See `transfer.checkpoints.convert.check`.
    """
    more: dict[str, Prover] = {}
    if ".pkl" in suffixes and importlib.util.find_spec("detectron2") is not None:
        from transfer.detection.detectron2_proof import prove_in_detectron2

        more["real detectron2"] = prove_in_detectron2
    return check(source, suffixes, format, trust, more, prefix, num_heads)


def write_conversion(report: Report, target: str | Path) -> Report:
    """Writes what is proven, as the only writer of the file `target`."""
    with one_writer_of(Path(target)):
        return write_proven(report, target)


def named_in(folder: str | Path, report: Report, suffix: str) -> Path:
    """Returns the file in a folder that the weights name."""
    return Path(folder) / f"{default_name(report.weights, report.path)}{suffix}"
