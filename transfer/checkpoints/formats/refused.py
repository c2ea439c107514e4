"""Networks that look like a known one and compute otherwise: names in, a refusal out.

Each is known by names that it alone has. They are refused by name, since loading what fits would
leave out a part of the network.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from pretrain.common.errors import InputError
from transfer.checkpoints.networks.architectures import shorten

# (pattern that one name matches in full, what the network is, why it is not read)
REFUSED = (
    (
        r"(.*\.)?visual\.(ln_pre\.weight|class_embedding)",
        "a CLIP ViT",
        "its norm before the blocks and its activation (QuickGELU) are not computed here",
    ),
    (
        r"(.*\.)?(pre_layrnorm|ln_pre|norm_pre)\.weight",
        "a CLIP ViT",
        "its norm before the blocks is not computed here",
    ),
    (
        r"(.*\.)?layers\.\d+\.blocks\.\d+\.attn\.relative_position_bias_table",
        "a Swin Transformer",
        "shifted windows are not computed here",
    ),
    (
        r"(.*\.)?(rel_pos_bias\.)?relative_position_bias(_table|\..*)",
        "a ViT with relative position bias (BEiT, SimMIM, data2vec)",
        "its attention adds a table of distances, which is not computed here",
    ),
    (
        r"(.*\.)?(backbone\.)?cls_norm\.weight",
        "a DINOv3 ViT with a norm of its own for the class token",
        "one norm for all tokens is computed here",
    ),
    (
        r"(.*\.)?blocks\.0\.attn\.(q_norm|k_norm)\.weight",
        "a ViT that normalises queries and keys",
        "that is not computed here",
    ),
    (
        r"(.*\.)?attn_pool\.(latent|probe)|(.*\.)?head\.probe",
        "a ViT with attention pooling (SigLIP)",
        "its feature is not the class token, and attention pooling is not computed here",
    ),
    (
        r"(.*\.)?blocks_token_only\.0\..*",
        "a CaiT",
        "its blocks for the class token alone are not computed here",
    ),
)

# What is stored instead of a network's weights: (pattern, what the network is, the way out).
MADE_FROM = (
    (
        r".*\.parametrizations\..*",
        "parametrized",
        "call torch.nn.utils.parametrize.remove_parametrizations, then save",
    ),
    (
        r"(.*\.)?lora_\w+(\..*)?",
        "a network with LoRA adapters",
        "merge them into the weights (peft: model.merge_and_unload()), then save",
    ),
    (
        r"(.*\.)?\w+_orig|(.*\.)?(weight|bias)_mask",
        "pruned",
        "call torch.nn.utils.prune.remove for every pruned tensor, then save",
    ),
    (
        r"(.*\.)?weight_[gv]",
        "a network with weight normalisation",
        "call torch.nn.utils.remove_weight_norm for every layer, then save",
    ),
    (
        r"(.*\.)?(SCB|weight\.(absmax|quant_map)|weight\.quant_state\..*|_packed_params\..*)",
        "quantised",
        "give the network in floating point",
    ),
)


def made_from(names: Collection[str]) -> str | None:
    """What a network is whose stored tensors are not its weights; None where they may be."""
    for pattern, what, remedy in MADE_FROM:
        found = [name for name in names if re.fullmatch(pattern, name)]
        if found:
            return (
                f"it is {what} ({shorten(found)}): the file has what the weights are made from; "
                f"{remedy}"
            )
    return None


def refuse_known(names: Collection[str]) -> None:
    """Raises InputError if a name belongs to a network of REFUSED."""
    for pattern, what, why in REFUSED:
        found = next((name for name in names if re.fullmatch(pattern, name)), None)
        if found:
            raise InputError(f"it is {what} ({found}): {why}")
