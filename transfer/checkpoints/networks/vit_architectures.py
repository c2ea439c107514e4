"""Vision Transformers by name: the sizes, variants, tensor names and shapes of each name.

A plain ViT is `vit_SIZE_patchP_IMAGE`. What else the tensors show is written between patch and
image, in this order, as in `vit_giant2_patch14_ls_swiglu4096_reg4_518`:

    ls        LayerScale: each branch is multiplied by a vector before it is added
    mlpH      the hidden layer of the MLPs is H wide, if it is not four times the width
    swigluH   MLPs are gated (SwiGLU), their gate and their value H wide each
    regN      N register tokens behind the class token; no position for it and them
    nocls     no class token: the feature is the mean of the patches after the last norm
    clsfree   the class token has no position of its own
    avg       the feature is the mean of the patches, and the last norm follows it (`fc_norm`)
    rope      no table of positions: queries and keys of patches are rotated by their place, with
              the periods of the tensor `rope.periods` (DINOv3); the image size is a convention

Names of tensors are timm's. N registers, L patches, D width, H hidden.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from pretrain.common.errors import InputError

Shapes = dict[str, tuple[int, ...]]


class Size(NamedTuple):
    """Describes a usual size of ViTs.

    Attributes:
        heads: the usual number for this width; a file that has a different number must say so.
    """

    name: str
    width: int
    depth: int
    heads: int


SIZES = (
    Size("tiny", 192, 12, 3),
    Size("small", 384, 12, 6),
    Size("base", 768, 12, 12),
    Size("large", 1024, 24, 16),
    Size("huge", 1280, 32, 16),
    Size("hugeplus", 1280, 32, 20),  # DINOv3's own size, which the length of its periods shows
    Size("giant", 1408, 40, 16),
    Size("giant2", 1536, 40, 24),  # DINOv2's name for it
)
_BY_NAME = {size.name: size for size in SIZES}
_NAME = re.compile(
    rf"vit_({'|'.join(_BY_NAME)})_patch(\d+)(_ls)?(?:_(mlp|swiglu)(\d+))?(?:_reg(\d+))?"
    r"(_nocls|_clsfree)?(_avg)?(_rope)?_(\d+)"
)


class Vit(NamedTuple):
    """Describes a ViT; the fields are the parts of its name (see the module).

    Attributes:
        patch_size, image_size: sides in pixels.
        hidden: width of the hidden layer of the MLPs; 0 means 4 D.
    """

    width: int
    depth: int
    heads: int
    patch_size: int
    image_size: int
    layer_scale: bool = False
    hidden: int = 0
    gated: bool = False
    registers: int = 0
    class_token: bool = True
    class_position: bool = True
    pool_norm: bool = False
    rope: bool = False

    @property
    def patches(self) -> int:
        """Returns the number of patches of an image."""
        return (self.image_size // self.patch_size) ** 2


def parse_vit(backbone: str) -> Vit | None:
    """Parses a name such as vit_small_patch16_224; None for a different backbone."""
    match = _NAME.fullmatch(backbone)
    if not match:
        return None
    size, patch, scale, mlp, hidden, registers, token, pool, rope, image = match.groups()
    _, width, depth, heads = _BY_NAME[size]
    return Vit(
        *(width, depth, heads, int(patch), int(image)),
        layer_scale=scale is not None,
        hidden=int(hidden or 0),
        gated=mlp == "swiglu",
        registers=int(registers or 0),
        class_token=token != "_nocls",
        class_position=token is None and not registers and not rope,
        pool_norm=pool is not None,
        rope=rope is not None,
    )


def vit_name(width: int, patch_size: int, image_size: int) -> str:
    """Returns a plain ViT's name; a width without a known size is named by its number."""
    size = next((size.name for size in SIZES if size.width == width), width)
    return f"vit_{size}_patch{patch_size}_{image_size}"


def full_name(size: str, vit: Vit) -> str:
    """Inverts `parse_vit`."""
    parts = [f"vit_{size}_patch{vit.patch_size}"]
    parts += ["ls"] * vit.layer_scale
    parts += [f"{'swiglu' if vit.gated else 'mlp'}{vit.hidden}"] if vit.hidden else []
    parts += [f"reg{vit.registers}"] if vit.registers else []
    if not vit.class_token:
        parts.append("nocls")
    elif not vit.class_position and not vit.registers and not vit.rope:
        parts.append("clsfree")
    parts += ["avg"] * vit.pool_norm + ["rope"] * vit.rope
    return "_".join([*parts, str(vit.image_size)])


def vit_heads(backbone: str, architecture: Mapping[str, Any]) -> int:
    """Returns the attention heads of a ViT's weights: those of its size, unless
    `Weights.architecture` states a number.

    Raises:
        InputError: it is not a ViT.
    """
    vit = parse_vit(backbone)
    if vit is None:
        raise InputError(f"{backbone} is not a ViT; give the name of a ViT")
    return int(architecture.get("num_heads", vit.heads))


def vitdet_lacks(backbone: str) -> str:
    """Returns the parts of a ViT that ViTDet does not have, for a message; "" for a plain ViT."""
    vit = parse_vit(backbone)
    if vit is None:
        return ""
    parts = {
        "LayerScale": vit.layer_scale,
        "gated MLPs": vit.gated,
        "MLPs of this width": bool(vit.hidden) and not vit.gated,
        "registers": bool(vit.registers),
        "rotary positions": vit.rope,
        "positions without a class token's": not (vit.class_position or vit.registers or vit.rope),
        "a norm after the pooling": vit.pool_norm,
    }
    return " and ".join(name for name, there in parts.items() if there)


def vit_shapes(vit: Vit) -> Shapes:
    """Returns the shapes of all tensors by name, except those of heads."""
    width = vit.width
    hidden = vit.hidden or 4 * width
    shapes: Shapes = {"cls_token": (1, 1, width)} if vit.class_token else {}
    if vit.registers:
        shapes["reg_token"] = (1, vit.registers, width)
    if vit.rope:
        shapes["rope.periods"] = (width // vit.heads // 4,)
    else:
        tokens = vit.patches + (vit.class_token and vit.class_position)
        shapes["pos_embed"] = (1, tokens, width)
    shapes |= {
        "patch_embed.proj.weight": (width, 3, vit.patch_size, vit.patch_size),
        "patch_embed.proj.bias": (width,),
    }
    for number in range(vit.depth):
        block = f"blocks.{number}"
        for norm in ("norm1", "norm2"):
            shapes |= {f"{block}.{norm}.weight": (width,), f"{block}.{norm}.bias": (width,)}
        for name, outputs, inputs in (
            ("attn.qkv", 3 * width, width),
            ("attn.proj", width, width),
            ("mlp.fc1", (1 + vit.gated) * hidden, width),
            ("mlp.fc2", width, hidden),
        ):
            shapes[f"{block}.{name}.weight"] = (outputs, inputs)
            shapes[f"{block}.{name}.bias"] = (outputs,)
        if vit.layer_scale:
            shapes |= {f"{block}.ls1.gamma": (width,), f"{block}.ls2.gamma": (width,)}
    norm = "fc_norm" if vit.pool_norm else "norm"
    return shapes | {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}


def vit_candidates(found: Shapes) -> list[str]:
    """Returns the names of the ViTs, one per size, that fit the found names and shapes.

    A single tensor that is lost or has a wrong shape does not change the answer, but for tokens:
    registers or a class token that are lost leave the tensors of a different complete ViT.
    """
    if not any(name.startswith("blocks.") for name in found):
        return []
    patch = max(_side(found, "patch_embed.proj.weight", 4, 3, 16), 1)
    registers = _side(found, "reg_token", 3, 1, 0)
    rows = _side(found, "pos_embed", 3, 1, (224 // patch) ** 2 + 1)
    rope = "rope.periods" in found or any(name.endswith(".bias_mask") for name in found)
    token = "cls_token" in found or not _is_square(rows) or rope
    patches = next((rows - more for more in (0, 1, 2) if _is_square(rows - more)), rows - 1)
    if not registers and token and patches == rows and _is_square(rows - 1):
        patches = rows - 1
    hidden, gated = _mlp(found)
    layer_scale = any(re.search(r"\.ls[12]\.", name) for name in found)
    names = []
    for size in SIZES:
        variant = Vit(
            *size[1:],
            patch_size=patch,
            image_size=math.isqrt(max(patches, 1)) * patch if not rope else 14 * patch,
            layer_scale=layer_scale,
            hidden=0 if hidden == 4 * size.width and not gated else hidden,
            gated=gated,
            registers=registers,
            class_token=token,
            class_position=token and not registers and patches != rows and not rope,
            rope=rope,
            pool_norm="fc_norm.weight" in found and "norm.weight" not in found,
        )
        names.append(full_name(size.name, variant))
    return names


def _side(found: Shapes, name: str, axes: int, axis: int, otherwise: int) -> int:
    """Returns a side of a tensor, or a default if it is missing or has different axes."""
    shape = found.get(name, ())
    return shape[axis] if len(shape) == axes else otherwise


def _mlp(found: Shapes) -> tuple[int, bool]:
    """Returns the width of the hidden layer in most blocks' MLPs, and whether it is gated."""
    kinds: Counter[tuple[int, bool]] = Counter()
    for name, shape in found.items():
        head = name.removesuffix("fc2.weight")
        inner = found.get(f"{head}fc1.weight")
        apart = f"{head}gate.weight" in found
        if name.endswith("mlp.fc2.weight") and len(shape) == 2 and (inner or apart):
            gated = apart or (inner is not None and inner[0] == 2 * shape[1])
            kinds[shape[1], gated] += 1
    return kinds.most_common(1)[0][0] if kinds else (0, False)


def _is_square(number: int) -> bool:
    return number > 0 and math.isqrt(number) ** 2 == number
