"""Formats of Hugging Face transformers' ViTs, in the names of its versions 4 and 5.

A file holds a state of one of its classes. `config.json` and `preprocessor_config.json` are read
too if they are in the file's folder.

Sources: transformers' modeling_{vit,vit_mae,vit_msn,deit,dinov2,ijepa}.py of 4.x and 5.24,
conversion_mapping.py, image_processing_*.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pretrain.common.errors import InputError
from pretrain.data.preprocess import Preprocess
from transfer.checkpoints.folder import CONFIG, PREPROCESSOR, preprocess_in, read_json
from transfer.checkpoints.formats.key_format import CLASS, KeyFormat, with_ddp
from transfer.checkpoints.networks.vit_architectures import SIZES
from transfer.checkpoints.provenance import Facts, stated

HALF = Preprocess((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # the default of ViTImageProcessor
EPS = {"norm_eps": 1e-12}  # the default of ViTConfig, ViTMAEConfig, DeiTConfig and IJepaConfig
BICUBIC = {"resample": "bicubic"}
METHODS = {
    "vit_mae": "mae",
    "vit_msn": "msn",
    "dinov2": "dinov2",
    "dinov2_with_registers": "dinov2",
    "dinov3_vit": "dinov3",
    "ijepa": "ijepa",
    "deit": "deit",
}
_PREFIXES = (
    "",
    "vit.",
    "deit.",
    "dinov2.",
    "dinov2_with_registers.",
    "ijepa.",
    "dinov3_vit.",
    "model.",
)
_TRUNK = r"([\w.]+\.)?"  # prefixes that the classes with a head put before the trunk's names
_DROPS = {
    "mask token": rf"{_TRUNK}embeddings\.mask_token",
    "pooler": rf"{_TRUNK}pooler\..*",
    "classifier": r"(\w+_)?classifier\..*|head\..*",
    "decoder": r"decoder\..*",
}


def _facts_of_dinov2(content: Mapping[str, Any]) -> Facts:
    """Returns facts of DINOv2; if there are registers, positions are resampled with
    antialiasing.
    """
    registers = any(str(name).endswith("register_tokens") for name in content)
    return stated("dinov2", architecture={} if registers else BICUBIC)(content)


def _beside(weights: Path, facts: Facts) -> Facts:
    """Completes the facts by what the repository of the file says.

    Raises:
        InputError: one of its files is damaged, or asks for what is not computed here.
    """
    folder = weights.parent
    warnings: tuple[str, ...] = ()
    preprocess = preprocess_in(folder)
    if preprocess is None:
        mean = ", ".join(f"{value:g}" for value in facts.preprocess.mean)
        warnings = (
            f"there is no {PREPROCESSOR} next to the file: mean {mean} is what its class is "
            "commonly used with; put the repository's file there",
        )
    config = read_json(folder / CONFIG)
    if config is None:
        more = (
            f"there is no {CONFIG} next to the file: the epsilon of its norms and its heads are the"
            " defaults of the class"
        )
        return facts._replace(preprocess=preprocess or facts.preprocess, warnings=(*warnings, more))
    known = {**facts.known, "method": METHODS.get(str(config.get("model_type")))}
    architecture = {**facts.architecture, **_architecture(config, folder / CONFIG)}
    if architecture.get("norm_eps") == 1e-6:
        del architecture["norm_eps"]
    return Facts(preprocess or facts.preprocess, known, facts.backbone, warnings, architecture)


def _architecture(config: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Returns what a config says about the network that the tensors do not show."""
    wanted = "silu" if config.get("use_gated_mlp") else "gelu"
    act = config.get("hidden_act", wanted)
    # a gated MLP uses silu, whatever the config says
    if act != wanted and not config.get("use_swiglu_ffn"):
        raise InputError(f"{file} says hidden_act {act!r}; only {wanted} is read")
    out: dict[str, Any] = {}
    if isinstance(config.get("layer_norm_eps"), float):
        out["norm_eps"] = config["layer_norm_eps"]
    heads, width = config.get("num_attention_heads"), config.get("hidden_size")
    usual: dict[Any, int] = {size.width: size.heads for size in SIZES}
    if isinstance(heads, int) and heads != usual.get(width):
        out["num_heads"] = heads
    return out


def _entry(name: str, title: str, layout: str = "hf_vit", **parts: Any) -> KeyFormat:
    return KeyFormat(
        f"hf_{name}",
        f"transformers' {title}",
        CLASS,
        prefixes=with_ddp(*_PREFIXES),
        layouts=(layout,),
        drops=_DROPS,
        beside=_beside,
        **parts,
    )


_BLOCK = r"(encoder\.layer|layers)\.\d+\."
_CLASS = rf"{_TRUNK}embeddings\.cls_token"

HUGGING_FACE_VITS = (
    _entry(
        "vit_mae",
        "ViT-MAE with decoder",
        needs=(r"decoder\.decoder_embed\..*", rf"{_TRUNK}{_BLOCK}layernorm_before\..*"),
        facts=stated("mae", architecture={**EPS, **BICUBIC}),
    ),
    _entry(
        "dinov2",
        "DINOv2 (also with registers)",
        needs=(rf"{_TRUNK}{_BLOCK}layer_scale1\.lambda1", rf"{_TRUNK}embeddings\.position_.*"),
        facts=_facts_of_dinov2,
    ),
    _entry(
        "dinov3",
        "DINOv3 ViT",
        "hf_dinov3",
        needs=(rf"{_TRUNK}(model\.)?layer\.\d+\.layer_scale1\.lambda1", _CLASS),
        lacks=(rf"{_TRUNK}embeddings\.position_embeddings",),
        facts=stated("dinov3", architecture={"norm_eps": 1e-5}),
    ),
    _entry(
        "ijepa",
        "I-JEPA",
        needs=(
            rf"{_TRUNK}{_BLOCK}layernorm_before\..*",
            rf"{_TRUNK}embeddings\.(position|patch)_embeddings.*",
        ),
        lacks=(_CLASS, rf"{_TRUNK}pooler\..*"),
        facts=stated("ijepa", architecture={**EPS, **BICUBIC}),
    ),
    _entry(
        "vit",
        "ViT, ViT-MSN, DeiT",
        needs=(rf"{_TRUNK}{_BLOCK}layernorm_before\..*", _CLASS),
        facts=stated(None, HALF, architecture={**EPS, **BICUBIC}),
    ),
)
