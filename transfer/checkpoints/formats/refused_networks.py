"""Networks that look like a known one but compute something else, and tensors made from weights.

Each is recognised by names that no other network has. The message says which network it is: loading
the tensors that fit would leave out a part of the network, and a message about single keys would
mislead the user.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from pretrain.common.errors import InputError
from transfer.checkpoints.networks.architectures import shorten

# ViTs: (pattern that one name matches in full, what the network is, why it is not read)
REFUSED_VITS = (
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
        "a DINOv3 ViT with a separate norm for the class token",
        "only one norm for all tokens is supported here",
    ),
    (
        r"(.*\.)?blocks\.0\.attn\.(q_norm|k_norm)\.weight",
        "a ViT that normalises queries and keys",
        "that is not computed here",
    ),
    (
        r"(.*\.)?blocks\.0\.attn\.temperature",
        "an XCiT",
        "its attention over channels is not computed here",
    ),
    (
        r"(.*\.)?blocks\.0\.(attn|mlp)\.norm\.weight",
        "a ViT with norms inside its attention or its MLPs (EVA-02, BEiT-3)",
        "they are not computed here",
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

# How a user names a network of timm that has the tensors of a different one (`timm_convnets`).
NAME_IT = (
    'give it as timm:NAME, or as model.safetensors next to a config.json {"architecture": "NAME"}, '
    "as timm's hub does"
)
IF_TIMMS = f"its tensors do not show which one; if it is timm's, {NAME_IT}"
_ANYWHERE = r"(.*\.)?"  # below any prefix
# ConvNets: patterns that all match a name below any prefix, what the network is, why it is not read
REFUSED_CONVNETS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (
        (r"attnpool\.(positional_embedding|[kqvc]_proj\.(weight|bias))",),
        "CLIP's ResNet",
        "it has a stem of three convolutions, average pooling instead of strides, and attention "
        "pooling, which no ResNet here computes",
    ),
    (
        (r"stem\.conv1\.conv\.weight", r"stages\.0\.0\.conv\d_\w+\.conv\.weight"),
        "a network of timm's byobnet (resnet50_clip, gcresnet50t and the like)",
        "its stem of several convolutions and its pooling are not computed here",
    ),
    (
        (r"visual\.trunk\..*",),
        "an OpenCLIP model with an image tower of timm",
        "towers are not read from it; save model.visual.trunk.state_dict() alone",
    ),
    (
        (r"norm_pre\.weight", r"stages\.0\.blocks\.0\.conv_dw\.weight"),
        "a ConvNeXt with its last norm before pooling (timm's convnext_tiny_hnf)",
        "only a norm after pooling is supported here",
    ),
    (
        (r"stages\.\d\.blocks\.\d+\.xca\..*",),
        "an EdgeNeXt",
        "its attention over channels is not computed here",
    ),
    (
        (r"stages\.0\.blocks\.0\.conv2\.weight", r"stages\.0\.blocks\.0\.norm1\.weight"),
        "a ResNet that normalises before its convolutions (timm's resnetv2, BiT)",
        "only norms after them are supported here",
    ),
    (
        (r"layer\d\.\d+\.(se|se_module|attn)\..*",),
        "a ResNet with squeeze and excitation or a different attention in its blocks",
        IF_TIMMS,
    ),
    (
        (r"layer\d\.\d+\.conv2\.(fc1|paths|conv|radix)\..*",),
        "a ResNeSt or a selective-kernel ResNet",
        "its split convolutions are not computed here",
    ),
    (
        (r"conv1\.0\.weight",),
        "a ResNet with a deep stem of three convolutions (timm's resnet50c, resnet50d)",
        IF_TIMMS,
    ),
    (
        (r"layer\d\.0\.downsample\.2\.(weight|running_mean)",),
        "a ResNet-D, whose shortcuts pool first",
        IF_TIMMS,
    ),
    (
        (r"(blocks\.0\.0\.conv_(dw|pwl?)|features\.\d\.0\.block\.0\.0)\.weight",),
        "an EfficientNet or a MobileNet",
        f"its tensors do not show which one; {NAME_IT}",
    ),
    (
        (r"_blocks\.\d+\._se_reduce\.weight",),
        "an EfficientNet with squeeze and excitation, in lukemelas' names",
        "only EfficientNet-Lite's of these are read",
    ),
    (
        (r"s1\.b1\.conv1\.conv\.weight",),
        "a RegNet",
        f"its tensors do not show which one; {NAME_IT}",
    ),
    (
        (r"trunk_output\.block1\..*",),
        "torchvision's RegNet",
        "only timm's RegNets are read",
    ),
    (
        (r"features\.denseblock1\..*",),
        "a DenseNet",
        "only ResNets, ConvNeXts and ViTs are read",
    ),
)

# What is stored in place of a network's weights: (pattern, what the network is, the remedy).
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
        r"(.*\.)?weight_u",
        "a network with spectral normalisation",
        "call torch.nn.utils.remove_spectral_norm for every layer, then save",
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
    """Returns what a network is whose stored tensors are not its weights; None if they may be."""
    for pattern, what, remedy in MADE_FROM:
        found = [name for name in names if re.fullmatch(pattern, name)]
        if found:
            return (
                f"it is {what} ({shorten(found)}): the file has the parts from which the weights"
                f" are computed; {remedy}"
            )
    return None


def refuse_networks(names: Collection[str]) -> None:
    """Raises InputError if the names are those of a network that only looks like a known one."""
    # ConvNets first: a ConvNeXt's norm has a name that a CLIP ViT has, too
    for patterns, what, why in REFUSED_CONVNETS:
        first = [_first(_ANYWHERE + f"({pattern})", names) for pattern in patterns]
        if all(first):
            raise InputError(f"in none of the known formats: it is {what} ({first[0]}): {why}")
    for pattern, what, why in REFUSED_VITS:
        if found := _first(pattern, names):
            raise InputError(f"it is {what} ({found}): {why}")


def _first(pattern: str, names: Collection[str]) -> str | None:
    fits = re.compile(pattern)
    return next((name for name in names if fits.fullmatch(name)), None)
