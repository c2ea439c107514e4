"""Backbone weights in canonical form, and the facts that travel with them.

Canonical: torchvision's names, float32, trunk only, no fc; `num_batches_tracked` kept if present.
Identity is the sha256 of those tensors, not of a file, so that a conversion keeps it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from pretrain.common.errors import InputError
from pretrain.common.safe_json import parse_json
from pretrain.data.preprocess import Preprocess
from transfer.checkpoints.files import source_stem

PROVENANCE_KINDS: dict[str, type] = {
    "name": str,
    "source": str,
    "method": str,
    "epochs": float,
    "pretrain_seed": int,
    "pretrain_config_sha256": str,
    "file_sha256": str,
    "pretrain_seconds": float,
    "pretrain_gpu_seconds": float,
    "pretrain_views": float,
    "pretrain_images": float,
}
PROVENANCE_KEYS = tuple(PROVENANCE_KINDS)
ARCHITECTURE_KINDS: dict[str, type] = {
    "stride_in_1x1": bool,
    "padding": str,
    "num_heads": int,
    "norm_eps": float,
    "resample": str,
    "last_norm_eps": float,
}
ARCHITECTURE_KEYS = tuple(ARCHITECTURE_KINDS)
COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class KeyAccount:
    """Says what happened to every tensor of the source; nothing is left unexplained.

    Attributes:
        used: source names that are in the result.
        dropped: by rule ("projector", "momentum copy", ...), the source names that it dropped.
        expected: number of tensors that the architecture has, counters of BN as in the source.
        notes: what was done to names and which of several networks was taken, printable lines.
    """

    used: tuple[str, ...] = field(repr=False)
    dropped: Mapping[str, tuple[str, ...]] = field(repr=False)
    expected: int
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """Returns one printable line for the used tensors, and one for each rule that dropped
        some.
        """
        rules = [f"{len(keys)} dropped: {rule}" for rule, keys in sorted(self.dropped.items())]
        used = f"{len(self.used)} of {self.expected} expected tensors used"
        return [used, *rules, *self.notes]


@dataclass(frozen=True)
class Weights:
    """Holds a backbone's weights.

    Attributes:
        state: float32 tensors (counters int64) on the CPU, by torchvision's name.
        backbone: a name of `pretrain.backbones.resnet.BACKBONES`, vit_SIZE_patchP_IMAGE
            (for variants see `vit_architectures`), or convnext_SIZE and convnextv2_SIZE.
        preprocess: what the network expects of its input.
        provenance: the keys of PROVENANCE_KEYS; None if unknown.
        account: the account of the file from which they were read; None for weights made here.
        warnings: what a user should know before trusting them.
        architecture: what differs from the backbone of that name without a trace in the tensors:
            `stride_in_1x1` (bottlenecks stride in their first convolution, as MSRA's) and `padding`
            ("same" or "same_pool": strided windows were padded as TensorFlow does). A ViT has
            `num_heads`, `norm_eps` (epsilon of its LayerNorms; 1e-6 if it is missing) and
            `resample` (how its positions are fitted to different image sizes, see
            `vit_resampled.RESAMPLE`). A ConvNeXt has `last_norm_eps` (epsilon of the norm after
            pooling; 1e-6 if it is missing).
        proof: how we know that they are the checkpoint's (`transfer.results.record.PROOFS`).
    """

    state: Mapping[str, Tensor] = field(repr=False)
    backbone: str
    preprocess: Preprocess
    provenance: Mapping[str, Any]
    account: KeyAccount | None = None
    warnings: tuple[str, ...] = field(default=())
    architecture: Mapping[str, Any] = field(default_factory=dict)
    proof: str = "none"

    @property
    def said(self) -> tuple[str, ...]:
        """Returns the warnings, and what was done to the file's names: a run prints them at its
        start.
        """
        return (*self.warnings, *(self.account.notes if self.account else ()))

    @cached_property
    def sha256(self) -> str:
        """Returns the identity of the canonical tensors, without BN's counters."""
        return tensors_sha256(self.state)


def tensors_sha256(state: Mapping[str, Tensor]) -> str:
    """Returns the sha256 over sorted names, shapes and little-endian float32 bytes, without
    counters.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        if name.endswith(COUNTER):
            continue
        tensor = state[name].detach().float().contiguous().cpu()
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().astype("<f4", copy=False).data)
    return digest.hexdigest()


def make_provenance(**known: Any) -> dict[str, Any]:
    """Returns provenance with None for facts that are not given; unknown keys are a programming
    error.
    """
    unknown = set(known) - set(PROVENANCE_KEYS)
    assert not unknown, f"no provenance keys {sorted(unknown)}"
    return {key: known.get(key) for key in PROVENANCE_KEYS}


def facts_of(weights: Weights) -> dict[str, Any]:
    """Returns the facts that are written next to the tensors, as values for JSON."""
    different = {"architecture": dict(weights.architecture)} if weights.architecture else {}
    return {
        **different,
        "backbone": weights.backbone,
        "preprocess": weights.preprocess.to_dict(),
        "provenance": dict(weights.provenance),
        "sha256": weights.sha256,
    }


def parse_facts(text: str | None) -> dict[str, Any] | None:
    """Reads the JSON text of `facts_of`; None if a file has none.

    Raises:
        InputError: not JSON, or facts that `check_facts` refuses.
    """
    if text is None:
        return None
    try:
        if not isinstance(text, str):
            raise ValueError(f"a {type(text).__name__}")
        facts = parse_json(text)
    except ValueError as error:
        raise InputError(f"its 'transfer' facts are not JSON: {error}") from error
    parts = ("preprocess", "provenance", "architecture")
    if not isinstance(facts, dict) or not all(isinstance(facts.get(k, {}), dict) for k in parts):
        raise InputError("its 'transfer' facts are not a JSON object of objects")
    if not isinstance(facts.get("sha256"), (str, type(None))):
        raise InputError("its 'transfer' facts have a sha256 that is not a text")
    check_facts(facts.get("provenance", {}), facts.get("architecture", {}), facts.get("backbone"))
    return facts


def check_facts(
    provenance: Mapping[str, Any], architecture: Mapping[str, Any], backbone: Any = None
) -> None:
    """Raises InputError for facts of a file that are unknown or have a wrong type.

    Each is None if it is not known.
    """
    kinds = {"backbone": str, **PROVENANCE_KINDS, **ARCHITECTURE_KINDS}
    for key, value in {**provenance, **architecture, "backbone": backbone}.items():
        if key not in kinds:
            raise InputError(f"its 'transfer' facts are not ours: {key!r}")
        wanted = kinds[key]
        whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63
        number = whole or isinstance(value, float) and math.isfinite(value)
        right = {str: isinstance(value, str), bool: isinstance(value, bool), int: whole}
        if value is not None and not right.get(wanted, number):
            raise InputError(f"its fact {key} is {value!r}, which is not a {wanted.__name__}")


def default_name(weights: Weights, path: str | Path) -> str:
    """Returns METHOD_BACKBONE_EPOCHSep if the weights state it, otherwise the file's stem."""
    method, epochs = weights.provenance.get("method"), weights.provenance.get("epochs")
    name = weights.provenance.get("name") or ""
    # only the name distinguishes it from the checkpoint of the training
    if name.endswith("_precise_bn"):
        return name
    if weights.provenance.get("source") == "random":
        return f"random_{weights.backbone}"
    if method and epochs is not None:
        return f"{method}_{weights.backbone}_{epochs:g}ep"
    return source_stem(path)
