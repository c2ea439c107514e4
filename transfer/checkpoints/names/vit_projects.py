"""How many projects name and shape the tensors of a ViT; a file's names choose its table.

Projects name the same parts differently, and versions of one library do too, so each part has a
list of names; those that a file has are its own. Sources: the model classes of dinov2, ibot, ijepa,
deit (models.py, models_v2.py), torchvision 0.14 to 0.23, and transformers 4 and 5 (modeling_vit.py,
modeling_dinov2.py, conversion_mapping.py).

A part may also be stored in pieces: query, key and value apart, the gate of an MLP apart. Pieces
have names of their own here: `attn.q`, `attn.k`, `attn.v`, `mlp.gate`, `mlp.up`.
L patches, D width.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from transfer.checkpoints.networks.vit_architectures import Shapes

PIECES = {"attn.qkv": ("attn.q", "attn.k", "attn.v"), "mlp.fc1": ("mlp.gate", "mlp.up")}
MASK = "attn.qkv.bias_mask"  # DINOv3's: factors of the bias, 0 for the keys'
PERIODS = 100.0 ** (torch.arange(16) / 16)  # DINOv3's, of heads 64 wide
_LEAVES = ("weight", "bias")


@dataclass(frozen=True)
class Family:
    """Says how related projects name the parts.

    Attributes:
        block: pattern of the beginning of a block's names; its group is the block's number.
        modules: names of each part of a block that has a weight and a bias.
        tensors: names of each tensor of a block, or of a part with the leaf.
        rest: names of each tensor outside of the blocks.
        first: names of the first block, to find a trunk whose names are not known.
        rotates: whether positions are rotary, with DINOv3's periods, which the files leave out.
    """

    block: str
    modules: Mapping[str, tuple[str, ...]]
    tensors: Mapping[str, tuple[str, ...]]
    rest: Mapping[str, tuple[str, ...]]
    first: tuple[str, ...] = ()
    rotates: bool = False


def _both(module: str, *theirs: str) -> dict[str, tuple[str, ...]]:
    return {f"{module}.{leaf}": tuple(f"{name}.{leaf}" for name in theirs) for leaf in _LEAVES}


# By tensor that is used as `reg_token`: the number of rows of the positions that belong to
# tokens.
TOKENS = {
    "reg_token": 0,
    "storage_tokens": 0,
    "register_tokens": 1,
    "embeddings.register_tokens": 1,
    "dist_token": 2,
    "embeddings.distillation_token": 2,
}

FAMILIES = {
    # timm's names, as DINO, DINOv2, iBOT, I-JEPA, DeiT and MAE spell them
    "named_vit": Family(
        block=r"blocks\.(?:\d+\.)?(\d+)\.",  # DINOv2's chunks: blocks.CHUNK.NUMBER
        modules={
            "norm1": ("norm1",),
            "attn.qkv": ("attn.qkv",),
            "attn.proj": ("attn.proj",),
            "norm2": ("norm2",),
            "mlp.fc1": ("mlp.fc1", "mlp.w12"),
            "mlp.gate": ("mlp.w1", "mlp.fc1_g"),  # DINOv3, and timm's of it
            "mlp.up": ("mlp.w2", "mlp.fc1_x"),
            "mlp.fc2": ("mlp.fc2", "mlp.w3"),
        },
        tensors={
            "ls1.gamma": ("ls1.gamma", "gamma_1"),
            "ls2.gamma": ("ls2.gamma", "gamma_2"),
            MASK: ("attn.qkv.bias_mask",),
        },
        rest={
            "cls_token": ("cls_token",),
            "reg_token": ("reg_token", "register_tokens", "dist_token", "storage_tokens"),
            "pos_embed": ("pos_embed",),
            "rope.periods": ("rope_embed.periods", "rope.periods"),
            **_both("patch_embed.proj", "patch_embed.proj"),
            **_both("norm", "norm"),
            **_both("fc_norm", "fc_norm"),
        },
        first=("blocks.0.norm1.weight", "blocks.0.0.norm1.weight"),
    ),
    "hf_vit": Family(
        block=r"(?:encoder\.layer|layers)\.(\d+)\.",
        modules={
            "norm1": ("layernorm_before", "norm1"),
            "attn.q": ("attention.attention.query", "attention.q_proj"),
            "attn.k": ("attention.attention.key", "attention.k_proj"),
            "attn.v": ("attention.attention.value", "attention.v_proj"),
            "attn.proj": ("attention.output.dense", "attention.o_proj"),
            "norm2": ("layernorm_after", "norm2"),
            "mlp.gate": ("mlp.gate_proj",),
            "mlp.up": ("mlp.up_proj",),
            "mlp.fc1": ("intermediate.dense", "mlp.fc1", "mlp.weights_in"),
            "mlp.fc2": ("output.dense", "mlp.fc2", "mlp.weights_out", "mlp.down_proj"),
        },
        tensors={
            "ls1.gamma": ("layer_scale1.lambda1",),
            "ls2.gamma": ("layer_scale2.lambda1",),
        },
        rest={
            "cls_token": ("embeddings.cls_token",),
            "reg_token": ("embeddings.register_tokens", "embeddings.distillation_token"),
            "pos_embed": ("embeddings.position_embeddings",),
            **_both("patch_embed.proj", "embeddings.patch_embeddings.projection"),
            **_both("norm", "layernorm"),
        },
        first=(
            *(f"{head}.0.layernorm_before.weight" for head in ("encoder.layer", "layers")),
            "encoder.layer.0.norm1.weight",
        ),
    ),
    "hf_dinov3": Family(
        block=r"(?:model\.)?layer\.(\d+)\.",
        modules={
            "norm1": ("norm1",),
            "attn.q": ("attention.q_proj",),
            "attn.k": ("attention.k_proj",),
            "attn.v": ("attention.v_proj",),
            "attn.proj": ("attention.o_proj",),
            "norm2": ("norm2",),
            "mlp.gate": ("mlp.gate_proj",),
            "mlp.up": ("mlp.up_proj",),
            "mlp.fc1": ("mlp.up_proj",),
            "mlp.fc2": ("mlp.down_proj",),
        },
        tensors={
            "ls1.gamma": ("layer_scale1.lambda1",),
            "ls2.gamma": ("layer_scale2.lambda1",),
        },
        rest={
            "cls_token": ("embeddings.cls_token",),
            "reg_token": ("embeddings.register_tokens",),
            **_both("patch_embed.proj", "embeddings.patch_embeddings"),
            **_both("norm", "norm"),
        },
        first=("model.layer.0.norm1.weight", "layer.0.norm1.weight"),
        rotates=True,
    ),
    "torchvision_vit": Family(
        block=r"encoder\.layers\.encoder_layer_(\d+)\.",
        modules={
            "norm1": ("ln_1",),
            "attn.proj": ("self_attention.out_proj",),
            "norm2": ("ln_2",),
            "mlp.fc1": ("mlp.0", "mlp.linear_1"),  # linear_1 and _2 before torchvision 0.14
            "mlp.fc2": ("mlp.3", "mlp.linear_2"),
        },
        tensors={
            "attn.qkv.weight": ("self_attention.in_proj_weight",),
            "attn.qkv.bias": ("self_attention.in_proj_bias",),
        },
        rest={
            "cls_token": ("class_token",),
            "pos_embed": ("encoder.pos_embedding",),
            **_both("patch_embed.proj", "conv_proj"),
            **_both("norm", "encoder.ln"),
        },
        first=("encoder.layers.encoder_layer_0.ln_1.weight",),
    ),
}


class VitTable:
    """Maps canonical names and pieces to the names of one file, and back."""

    def __init__(self, family: Family, names: Collection[str]) -> None:
        found = frozenset(names)
        heads, inner = _blocks(family.block, found)
        leaves = _block_leaves(family, inner)
        self.split_parts = {
            whole for whole, parts in PIECES.items() if f"{parts[0]}.weight" in leaves
        }
        self.biased = {part for part in [*PIECES, *_pieces()] if f"{part}.bias" in leaves}
        self.masked = MASK in leaves
        self.forward = {
            f"blocks.{number}.{ours}": f"{head}{theirs}"
            for number, head in heads.items()
            for ours, theirs in leaves.items()
        }
        rest = {ours: _present(theirs, found) for ours, theirs in family.rest.items()}
        token = rest.get("reg_token")
        self.rows = TOKENS[token] if token in found and rest.get("pos_embed") in found else 0
        # timm's DINOv3 leaves out the periods too; it alone has no bias there and no positions.
        timm = token == "reg_token" and "pos_embed" not in found and "attn.qkv" not in self.biased
        self.rotates = family.rotates or timm and token in found
        self.forward |= rest
        self.back = {theirs: ours for ours, theirs in self.forward.items()}
        own = [theirs for ours, theirs in self.forward.items() if ours.startswith("blocks.0.")]
        self.landmarks = tuple(own) or family.first

    def forth(self, name: str) -> str | None:
        """Returns the file's name of a canonical tensor, or of a piece of one."""
        return self.forward.get(name)

    def added(self) -> dict[str, Tensor]:
        """Returns tensors that are not in the file because they are the same in all networks."""
        return {"rope.periods": PERIODS} if self.rotates else {}

    def split(self, shapes: Shapes) -> Shapes:
        """Converts canonical shapes to the shapes of what this file stores."""
        out: Shapes = {}
        for name, shape in shapes.items():
            part, leaf = _part_and_leaf(name)
            if part in self.split_parts:
                pieces = PIECES[part]
                for piece in (
                    pieces if leaf == "weight" else (p for p in pieces if p in self.biased)
                ):
                    size = (shape[0] // len(pieces), *shape[1:])
                    out[name.replace(part, piece)] = size
            elif part != "attn.qkv" or leaf == "weight" or part in self.biased:
                out[name] = shape
                if self.masked and name.endswith("attn.qkv.bias"):
                    out[f"{name}_mask"] = shape
        if self.rows and "reg_token" in out and "pos_embed" in out:
            one, patches, width = out["pos_embed"]
            out["pos_embed"] = (one, patches + self.rows, width)
        return out

    def join(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Converts what the file stores to canonical tensors; the state must be complete.

        A piece without a bias gets zeros if other pieces have a bias. Positions of the class and
        the distillation token are added into these tokens, as timm does.
        """
        out = dict(state)
        for part in self.split_parts:
            for weight in [n for n in out if n.endswith(f".{PIECES[part][0]}.weight")]:
                head = weight.removesuffix(f"{PIECES[part][0]}.weight")
                _stack(out, head, part)
        for weight in [n for n in out if n.endswith(".attn.qkv.weight")]:
            bias = weight.replace(".weight", ".bias")
            if self.masked:
                out[bias] = out[bias].float() * out.pop(f"{bias}_mask").float()
            out.setdefault(bias, out[weight].new_zeros(len(out[weight])))
        if self.rows and "reg_token" in out:
            rows = out["pos_embed"].float()
            out["cls_token"] = out["cls_token"].float() + rows[:, :1]
            if self.rows > 1:
                out["reg_token"] = out["reg_token"].float() + rows[:, 1 : self.rows]
            out["pos_embed"] = rows[:, self.rows :]
        return out


def _stack(state: dict[str, Tensor], head: str, part: str) -> None:
    """Puts the pieces of one part in its place."""
    weights = [state.pop(f"{head}{piece}.weight") for piece in PIECES[part]]
    biases = [
        state.pop(f"{head}{piece}.bias", weight.new_zeros(len(weight)))
        for piece, weight in zip(PIECES[part], weights)
    ]
    state[f"{head}{part}.weight"] = torch.cat(weights)
    state[f"{head}{part}.bias"] = torch.cat(biases)


def _blocks(pattern: str, names: Collection[str]) -> tuple[dict[int, str], set[str]]:
    """Returns the beginning of each block's names, and what follows these beginnings."""
    heads, inner = {}, set()
    for name in names:
        match = re.match(pattern, name)
        if match:
            heads[int(match[1])] = match[0]
            inner.add(name[match.end() :])
    return dict(sorted(heads.items())), inner


def _block_leaves(family: Family, inner: Collection[str]) -> dict[str, str]:
    """Returns, by tensor or piece of a block, its name in this file, if the file has it."""
    leaves = {
        ours: theirs
        for ours, names in family.tensors.items()
        if (theirs := _present(names, inner)) in inner
    }
    gated = any(f"{name}.weight" in inner for name in family.modules.get("mlp.gate", ()))
    for ours, names in family.modules.items():
        if ours == "mlp.fc1" and gated or ours == "mlp.up" and not gated:
            continue
        for leaf in _LEAVES:
            theirs = _present(tuple(f"{name}.{leaf}" for name in names), inner)
            if theirs in inner:
                leaves[f"{ours}.{leaf}"] = theirs
    return leaves


def _present(names: tuple[str, ...], found: Collection[str]) -> str:
    """Returns the first name that is found; the first of all names if none is found."""
    return next((name for name in names if name in found), names[0])


def _pieces() -> list[str]:
    return [piece for pieces in PIECES.values() for piece in pieces]


@lru_cache(maxsize=4096)  # one file asks for the names of all sizes, several times
def _part_and_leaf(name: str) -> tuple[str, str]:
    """Returns (`attn.qkv`, `bias`) for `blocks.3.attn.qkv.bias`."""
    part, _, leaf = re.sub(r"^blocks\.\d+\.", "", name).rpartition(".")
    return part, leaf
