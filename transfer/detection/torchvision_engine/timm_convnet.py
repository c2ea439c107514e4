"""timm's ConvNets as what a pyramid is built on: a ResNet variant, ResNeXt, ConvNeXt, RegNet or
EfficientNet by timm's name, whose maps of strides 4, 8, 16 and 32 are called res2 to res5.

N batch. Input (N, 3, H, W), normalised; outputs (N, channels, H / stride, W / stride). The network
is timm's own, without what comes after its last map, and keeps timm's names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from pretrain.common.errors import InputError
from pretrain.common.lookup import near_matches
from transfer.checkpoints.networks.convnext import parse_convnext
from transfer.checkpoints.networks.timm_convnets import FAMILIES, in_families
from transfer.detection.torchvision_engine.architectures import ARCHITECTURES
from transfer.detection.torchvision_engine.batchnorm import BATCH_NORMS, freeze, with_batch_norm
from transfer.detection.torchvision_engine.feature_map_checks import OUT, STAGES, check_known

FREEZE_AT = range(6)  # 0: nothing, 1: the stem, 2: stem and res2, ..., 5: all
NETWORK = "backbone.bottom_up.network."  # what the names of its tensors begin with in a detector
NORM_EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class TimmConvNetSpec:
    """Has the keys of MODEL.BACKBONE and TRANSFER.CONVNET, and the norm in MODEL.RESNETS."""

    name: str  # the name of the network in timm
    norm: str  # it takes the place of each batch norm; a network without any is as timm makes it
    freeze_at: int  # see FREEZE_AT
    drop_path: float  # rate of the last block; the rates increase linearly from 0
    out_norm: bool  # whether a LayerNorm follows each map, as in ConvNeXt's detectors
    out_features: tuple[str, ...]  # the maps that are returned

    @classmethod
    def from_config(cls, cfg: CfgNode) -> TimmConvNetSpec:
        """Reads the config; raises InputError for a network that is not built here."""
        return cls(
            name=cfg.MODEL.BACKBONE.NAME,
            norm=cfg.MODEL.RESNETS.NORM,
            freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
            drop_path=cfg.TRANSFER.CONVNET.DROP_PATH,
            out_norm=cfg.TRANSFER.CONVNET.OUT_NORM,
            out_features=tuple(name for name in cfg.MODEL.RESNETS.OUT_FEATURES if name != "stem"),
        )

    def __post_init__(self) -> None:
        """Raises InputError for a network that is not built here."""
        _check_name(self.name)
        if self.freeze_at not in FREEZE_AT:
            known = ", ".join(map(str, FREEZE_AT))
            raise InputError(
                f"MODEL.BACKBONE.FREEZE_AT {self.freeze_at} is unknown; known: {known}"
            )
        if not 0 <= self.drop_path < 1:
            raise InputError(f"TRANSFER.CONVNET.DROP_PATH {self.drop_path} must be in [0, 1)")
        check_known(OUT, self.out_features, STAGES)
        layout = layout_of(self.name)
        lacks = [name for name in STAGES if name not in layout.channels]
        if lacks:
            raise InputError(
                f"MODEL.BACKBONE.NAME {self.name} has maps of the strides {layout.strides}, but a "
                f"pyramid needs one of each of 4, 8, 16, 32; choose a different network"
            )
        if layout.batch_norms and self.norm not in BATCH_NORMS:
            raise InputError(
                f"MODEL.RESNETS.NORM {self.norm!r} cannot replace the batch norms of "
                f"{self.name}; known: {', '.join(BATCH_NORMS)}"
            )

    @property
    def trunk_name(self) -> str:
        """Returns timm's name, which its weights have too."""
        return self.name

    def build(self) -> TimmConvNet:
        """Returns the network with its norms, untrained."""
        return TimmConvNet(self)


def _check_name(name: str) -> None:
    if in_families(name):
        return
    import timm

    models = timm.list_models()
    what = "is unknown"
    if name in models:  # such as a ViT, for which its own name is not a useful hint
        what = "is a network of timm that cannot be a backbone here"
    usable = [*ARCHITECTURES, *filter(in_families, models)]
    hint = "" if name in models else near_matches(name, usable)
    raise InputError(
        f"MODEL.BACKBONE.NAME {name!r} {what}; known: {', '.join(ARCHITECTURES)}, and timm's "
        f"ConvNets of the families {', '.join(FAMILIES)}{hint}"
    )


def has_layer_groups(name: str) -> bool:
    """Returns whether `training.optimizer.convnext_layer_factor` knows the layers of timm's
    network.
    """
    return parse_convnext(name) is not None


@dataclass(frozen=True)
class Layout:
    """Describes the structure of timm's network.

    Attributes:
        stages: for the last map of each stride, its parts in the order in which they run; "stem" is
            before the first of them, or before the stage of stride 4 has begun.
        after: parts after the last map, which a detector does not use.
        channels: channels of each stage's map. strides: strides of all maps that timm names.
        places: place of each stage's map among timm's.
        batch_norms: whether there is any.
    """

    stages: Mapping[str, tuple[str, ...]]
    after: tuple[str, ...]
    channels: Mapping[str, int]
    strides: tuple[int, ...]
    places: Mapping[str, int]
    batch_norms: bool


@lru_cache
def layout_of(name: str) -> Layout:
    """Returns the parts of a network, from timm's `feature_info`."""
    with torch.device("meta"):
        network = _make(name, 0.0)
    info: Sequence[Mapping[str, Any]] = list(getattr(network, "feature_info"))
    ends = [entry["module"] for entry in info]
    parts = _parts(network, ends)
    stages: dict[str, list[str]] = {"stem": []}
    levels = [max(entry["reduction"].bit_length() - 1, 1) for entry in info]
    names = ["stem" if level == 1 else f"res{level}" for level in levels]
    # If no map is finer than stride 4 (ConvNeXt), the stem is what precedes the first stage.
    if "stem" not in names:
        first = parts.index(ends[0])
        stages["stem"], parts = parts[:first], parts[first:]
    for stage, end in zip(names, ends):
        last = parts.index(end) + 1
        stages.setdefault(stage, []).extend(parts[:last])
        parts = parts[last:]
    return Layout(
        {stage: tuple(found) for stage, found in stages.items()},
        tuple(parts),
        {stage: entry["num_chs"] for stage, entry in zip(names, info)},
        tuple(entry["reduction"] for entry in info),
        {stage: place for place, stage in enumerate(names)},
        any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules()),
    )


def _parts(network: nn.Module, ends: Sequence[str]) -> list[str]:
    """Returns the network's children in order, those that hold an end of a stage by their own
    children.
    """
    parts: list[str] = []
    for name, child in network.named_children():
        inside = any(end.startswith(f"{name}.") for end in ends)
        parts += [f"{name}.{key}" for key, _ in child.named_children()] if inside else [name]
    return parts


def _make(name: str, drop_path: float) -> nn.Module:
    import timm

    options: dict[str, Any] = {"drop_path_rate": drop_path} if drop_path else {}
    return timm.create_model(name, num_classes=0, **options)


class TimmConvNet(nn.Module):
    """Has the children `network`, which is timm's, and `out_norms` by stage, if there are any."""

    size_divisibility = square_size = 0  # images of any size

    def __init__(self, spec: TimmConvNetSpec) -> None:
        super().__init__()
        layout = layout_of(spec.name)
        self.out_features = spec.out_features
        self.channels = {name: layout.channels[name] for name in spec.out_features}
        self.strides = {name: 2 ** int(name[3:]) for name in spec.out_features}
        self.places = {name: layout.places[name] for name in spec.out_features}
        self.after = layout.after
        self.network = _make(spec.name, spec.drop_path)
        for part in layout.after:
            self.network.set_submodule(part, nn.Identity())
        with_batch_norm(self.network, spec.norm)
        self.freeze(spec.freeze_at, layout)
        if spec.out_norm:
            from timm.layers import LayerNorm2d

            norms = {name: LayerNorm2d(self.channels[name], eps=NORM_EPS) for name in self.channels}
            self.out_norms: nn.ModuleDict | None = nn.ModuleDict(norms)
        else:
            self.out_norms = None
        # timm's own pass over the network that returns the maps, a method of each of its ConvNets.
        self.maps_of: Callable[..., list[Tensor]] = getattr(self.network, "forward_intermediates")

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Returns the map of each stage of images (N, 3, H, W).

        It is (N, channels[stage], H / strides[stage], W / strides[stage]).
        """
        places = list(self.places.values())
        found = self.maps_of(x, indices=places, intermediates_only=True)
        maps = dict(zip(self.places, found))
        if self.out_norms is None:
            return maps
        return {name: self.out_norms[name](map_) for name, map_ in maps.items()}

    def freeze(self, freeze_at: int, layout: Layout) -> None:
        """Fixes the stem (freeze_at >= 1) and the stages up to res`freeze_at`."""
        for stage, parts in layout.stages.items():
            level = 1 if stage == "stem" else int(stage[3:])
            for part in parts if freeze_at >= level else ():
                freeze(self.network, part)

    def is_left_out(self, name: str) -> bool:
        """Returns whether a tensor of timm's complete network belongs to a part after the last
        map.
        """
        return name.startswith(tuple(f"{part}." for part in self.after))
