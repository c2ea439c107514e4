"""The number of attention heads of a ViT, which none of its tensors shows.

Most ViTs have one head for each 64 channels, so tiny ones have 3 and small ones 6. MoCo v3's
ViT-S (its vits.py), the ViT-Ti and ViT-S that solo-learn trains with MAE and MoCo v3
(solo/backbones/vit/), and MAE-Lite's ViT-Ti (projects/mae_lite/models_mae.py) have 12. With a wrong
number the network computes different features without any error.

What a file shows in place of the number is its table of positions: MoCo v3 and MAE use fixed sines
and cosines, and their order is different. D is the width, L the number of patches.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeGuard

import torch
from torch import Tensor

from pretrain.backbones.vit import sine_cosine_positions
from pretrain.common.errors import InputError
from transfer.checkpoints.networks.vit_architectures import parse_vit

MANY = 12  # heads of the ViT-Ti and ViT-S that differ from most
AMBIGUOUS = (192, 384)  # widths at which released networks have different numbers of heads
OPTION = "--num-heads of tools/convert_weights.py"
# Methods whose own code has one head for 64 channels at these widths.
_USUAL = {"dino", "dinov2", "dinov3", "ibot", "ijepa", "msn", "deit", "deit3", "simmim"}
_CLOSE = 2e-3  # a table that was stored in half precision is the same table


def heads_of(
    backbone: str,
    state: Mapping[str, Tensor],
    source: str,
    method: str | None,
    named: bool,
) -> tuple[dict[str, int], tuple[str, ...]]:
    """Returns `num_heads` for `Weights.architecture` if the file shows it, and a warning if the
    number is an assumption.

    Args:
        backbone: name of the network; only a ViT of an ambiguous width has an answer.
        state: canonical tensors.
        source: name of the file's format.
        method: the method that the file states, if any.
        named: timm's or transformers' name or config of the network is known.
    """
    vit = parse_vit(backbone)
    if vit is None or vit.rope or vit.width not in AMBIGUOUS:
        return {}, ()
    table = fixed_table(state.get("pos_embed"))
    if table == "moco_v3" or (source == "solo_learn" and table == "mae"):
        whose = "MoCo v3's" if table == "moco_v3" else "the one of solo-learn's MAE"
        line = (
            f"the file does not state its number of attention heads; its table of positions is "
            f"{whose}, so {MANY} are assumed; {OPTION} sets a different number"
        )
        return {"num_heads": MANY}, (line,)
    if named or method in _USUAL:
        return {}, ()
    line = (
        f"the file does not state its number of attention heads: {vit.heads} are assumed, as in "
        f"most ViTs that are {vit.width} wide, but those of MAE-Lite and of MoCo v3 have {MANY}; "
        f"{OPTION} sets a different number"
    )
    return {}, (line,)


def given_heads(backbone: str, heads: int) -> dict[str, int]:
    """Returns `num_heads` for `Weights.architecture`, as the user or a file gives it.

    Raises:
        InputError: the network is not a ViT, or its width cannot be divided so.
    """
    vit = parse_vit(backbone)
    if vit is None:
        raise InputError(f"it is a {backbone}; only a ViT has a number of attention heads")
    if heads < 1 or vit.width % heads:
        raise InputError(
            f"a {backbone} is {vit.width} wide, which {heads} attention heads do not divide"
        )
    if vit.rope and heads != vit.heads:
        raise InputError(
            f"the periods of its rotary positions belong to {vit.heads} attention heads, not to "
            f"{heads}"
        )
    return {"num_heads": heads}


def fixed_table(positions: object) -> str | None:
    """Returns whose fixed table of positions (1, L or 1 + L, D) this is: "moco_v3" or "mae".

    Both are the sines and cosines of the row and of the column of a patch; MoCo v3 has those of the
    row first (vits.py), MAE those of the column (util/pos_embed.py). The class token has zeros.
    None is any other table, such as a learned one.
    """
    if not is_values(positions) or positions.dim() != 3 or positions.shape[2] % 4:
        return None
    rows = positions[0].float()
    side = math.isqrt(len(rows))
    if side * side != len(rows) and len(rows) > 1:
        rows, side = rows[1:], math.isqrt(len(rows) - 1)
    if side < 2 or side * side != len(rows):
        return None
    width = rows.shape[1]
    mae = sine_cosine_positions(width, side, side)[0, 1:]
    tables = {"moco_v3": mae.roll(width // 2, dims=1), "mae": mae}  # the halves exchanged
    close = (whose for whose, table in tables.items() if (rows - table).abs().max() < _CLOSE)
    return next(close, None)


def is_values(tensor: object) -> TypeGuard[Tensor]:
    """Returns whether this is a tensor whose values can be compared, as that of a good file is."""
    return (
        isinstance(tensor, Tensor)
        and not tensor.is_meta
        and tensor.layout == torch.strided
        and tensor.is_floating_point()
    )
