"""Backbone weights in canonical form, and the facts that travel with them.

Canonical: torchvision's names, float32, trunk only, no fc; `num_batches_tracked` kept if present.
Identity is the sha256 of those tensors, not of a file, so that a conversion keeps it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from pretrain.common.errors import InputError
from pretrain.data.preprocess import Preprocess
from transfer.checkpoints.files import source_stem

PROVENANCE_KEYS = (
    "name",
    "source",
    "method",
    "epochs",
    "pretrain_seed",
    "pretrain_config_sha256",
    "file_sha256",
    "pretrain_seconds",
    "pretrain_gpu_seconds",
    "pretrain_views",
    "pretrain_images",
)
ARCHITECTURE_KEYS = (
    "stride_in_1x1",
    "padding",
    "num_heads",
    "norm_eps",
    "resample",
    "last_norm_eps",
)
COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class KeyAccount:
    """What became of every tensor of the source; nothing is left unexplained.

    Attributes:
        used: source names that are in the result.
        dropped: rule -> the source names it dropped ("projector", "momentum copy", ...).
        expected: number of tensors that the architecture has, counters of BN as in the source.
        notes: what was done to names and which of several networks was taken, printable lines.
    """

    used: tuple[str, ...]
    dropped: Mapping[str, tuple[str, ...]]
    expected: int
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """One printable line per fate."""
        rules = [f"{len(keys)} dropped: {rule}" for rule, keys in sorted(self.dropped.items())]
        used = f"{len(self.used)} of {self.expected} expected tensors used"
        return [used, *rules, *self.notes]


@dataclass(frozen=True)
class Weights:
    """A backbone's weights.

    Attributes:
        state: torchvision's names -> float32 tensors (counters int64) on the CPU.
        backbone: a name of `pretrain.backbones.resnet.BACKBONES`, vit_SIZE_patchP_IMAGE
            (for variants see `vit_architectures`), or convnext_SIZE and convnextv2_SIZE.
        preprocess: what the network expects of its input.
        provenance: the keys of PROVENANCE_KEYS; None where unknown.
        account: of the file they were read from; None for weights made here.
        warnings: what a user should know before trusting them.
        architecture: what differs from the backbone of that name without a trace in the tensors:
            `stride_in_1x1` (bottlenecks stride in their first convolution, as MSRA's), `padding`
            ("same" or "same_pool": strided windows were padded as TensorFlow does), of a ViT
            `num_heads`, `norm_eps` (of its LayerNorms, 1e-6 without) and `resample` (how its
            positions are fitted to other image sizes, see `vit_resampled.RESAMPLE`), of a ConvNeXt
            `last_norm_eps` (of the norm after pooling, 1e-6 without).
        proof: how it is known that they are the checkpoint's (`transfer.results.record.PROOFS`).
    """

    state: Mapping[str, Tensor]
    backbone: str
    preprocess: Preprocess
    provenance: Mapping[str, Any]
    account: KeyAccount | None = None
    warnings: tuple[str, ...] = field(default=())
    architecture: Mapping[str, Any] = field(default_factory=dict)
    proof: str = "none"

    @property
    def said(self) -> tuple[str, ...]:
        """The warnings, and what was done to the file's names: what a run says at its start."""
        return (*self.warnings, *(self.account.notes if self.account else ()))

    @cached_property
    def sha256(self) -> str:
        """Identity of the canonical tensors, BN's counters left out."""
        return tensors_sha256(self.state)


def tensors_sha256(state: Mapping[str, Tensor]) -> str:
    """sha256 over sorted names, shapes and little-endian float32 bytes; counters left out."""
    digest = hashlib.sha256()
    for name in sorted(state):
        if name.endswith(COUNTER):
            continue
        tensor = state[name].detach().float().contiguous().cpu()
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().astype("<f4", copy=False).data)
    return digest.hexdigest()


def make_provenance(**known: Any) -> dict[str, Any]:
    """Provenance with None for what is not given; unknown keys are a programming error."""
    unknown = set(known) - set(PROVENANCE_KEYS)
    assert not unknown, f"no provenance keys {sorted(unknown)}"
    return {key: known.get(key) for key in PROVENANCE_KEYS}


def facts_of(weights: Weights) -> dict[str, Any]:
    """The JSON-able facts that are written beside the tensors."""
    different = {"architecture": dict(weights.architecture)} if weights.architecture else {}
    return {
        **different,
        "backbone": weights.backbone,
        "preprocess": weights.preprocess.to_dict(),
        "provenance": dict(weights.provenance),
        "sha256": weights.sha256,
    }


def parse_facts(text: str | None) -> dict[str, Any] | None:
    """Reads the JSON text of `facts_of`; None where a file has none.

    Raises:
        InputError: not an object of objects, or provenance of unknown keys.
    """
    if text is None:
        return None
    try:
        facts = json.loads(text)
        unknown = set(facts.get("provenance", {}).keys()) - set(PROVENANCE_KEYS)
        unknown |= set(facts.get("architecture", {}).keys()) - set(ARCHITECTURE_KEYS)
        whole = all(isinstance(facts.get(k, {}), dict) for k in ("preprocess", "architecture"))
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"its 'transfer' facts are not a JSON object of objects: {error}"
        ) from error
    if unknown or not whole:
        raise InputError(f"its 'transfer' facts are not ours: {sorted(unknown) or 'preprocess'}")
    return facts


def default_name(weights: Weights, path: str | Path) -> str:
    """METHOD_BACKBONE_EPOCHSep where the weights know it, else the file's stem."""
    method, epochs = weights.provenance.get("method"), weights.provenance.get("epochs")
    name = weights.provenance.get("name") or ""
    if name.endswith("_precise_bn"):  # which nothing but the name tells from the training's own
        return name
    if weights.provenance.get("source") == "random":
        return f"random_{weights.backbone}"
    if method and epochs is not None:
        return f"{method}_{weights.backbone}_{epochs:g}ep"
    return source_stem(path)
