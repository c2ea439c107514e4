"""The proof of a conversion in the real Detectron2: its checkpointer, its backbones.

It compares the weights there with the network that they came from, as `transfer.checkpoints.proof`
does: there is a row for each input and stage.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import ViT
from detectron2.modeling.backbone import build_resnet_backbone
from torch import Tensor, nn

from transfer.checkpoints.networks.vit_architectures import Vit, parse_vit
from transfer.checkpoints.originals.resnet import SIZES
from transfer.checkpoints.proof import ProofError, StageDifference, compare, proof_inputs
from transfer.checkpoints.weights import Weights
from transfer.checkpoints.writers import write_weights

STAGES = ("res2", "res3", "res4", "res5")


class _Named(nn.Module):
    """A backbone under the name that it has in a detector, with the stages of a proof."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    @torch.no_grad()
    def forward_stages(self, x: Tensor) -> dict[str, Tensor]:
        """Returns the maps of images (N, 3, H, W) after "stem", "layer1", ..."""
        maps = self.backbone(x)
        names = {"stem": "stem", **{name: f"layer{int(name[3]) - 1}" for name in STAGES}}
        return {ours: maps[theirs] for theirs, ours in names.items()}


class _Net(nn.Module):
    """A ViT under the name that it has in ViTDet's feature pyramid."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net


def prove_in_detectron2(source: nn.Module, weights: Weights) -> list[StageDifference]:
    """Writes a `.pkl` into a temporary folder, lets Detectron2 load it, and compares.

    ResNets are compared stage by stage. ViTDet's ViT has neither class token nor last norm, so its
    tensors are compared, and all of them must come from the file. Returns: rows; none for a
    backbone that Detectron2 does not have (the tiny one).

    Raises:
        ProofError: Detectron2 left a tensor of its backbone without a value from the file.
    """
    vit = parse_vit(weights.backbone)
    if vit is None and not SIZES[weights.backbone].large:
        return []
    backbone = _build_resnet(weights) if vit is None else _build_vit(vit, weights)
    network = _Named(backbone if vit is None else _Net(backbone))
    floats = [value for value in network.state_dict().values() if value.is_floating_point()]
    for value in floats:  # values that the file does not set stay NaN
        value.fill_(float("nan"))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.pkl"
        write_weights(weights, path)
        DetectionCheckpointer(network).load(str(path))
    network.eval()
    lost = [key for key, value in network.state_dict().items() if value.isnan().any()]
    if lost:
        raise ProofError(f"Detectron2 found no value for {', '.join(lost[:4])}")
    if vit is not None:
        return _compare_tensors(backbone, weights)
    inputs = proof_inputs(weights)
    return [row for name, x in inputs for row in compare(source, network, x, name)]


def _build_resnet(weights: Weights) -> nn.Module:
    size = SIZES[weights.backbone]
    cfg = get_cfg()
    node = cfg.MODEL.RESNETS
    depths: dict[tuple[int, ...], int] = {(2, 2, 2, 2): 18, (3, 4, 23, 3): 101, (3, 8, 36, 3): 152}
    node.DEPTH = depths.get(size.blocks, 50 if size.bottleneck else 34)
    node.NORM = "BN"
    node.STRIDE_IN_1X1 = bool(weights.architecture.get("stride_in_1x1"))
    node.STEM_OUT_CHANNELS = size.stem
    node.RES2_OUT_CHANNELS = size.stem * (4 if size.bottleneck else 1)
    node.NUM_GROUPS, node.WIDTH_PER_GROUP = size.groups, size.width // size.groups
    node.OUT_FEATURES = ["stem", *STAGES]
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    return build_resnet_backbone(cfg, ShapeSpec(channels=3))


def _build_vit(vit: Vit, weights: Weights) -> nn.Module:
    return ViT(
        img_size=vit.image_size,
        patch_size=vit.patch_size,
        embed_dim=vit.width,
        depth=vit.depth,
        num_heads=weights.architecture.get("num_heads", vit.heads),
        drop_path_rate=0.0,
        window_size=0,
        pretrain_img_size=vit.image_size,
        out_feature="last_feat",
    )


def _compare_tensors(net: nn.Module, weights: Weights) -> list[StageDifference]:
    state = net.state_dict()
    worst = max(float((state[name] - weights.state[name]).abs().max()) for name in state)
    return [StageDifference(f"{len(state)} tensors", "all", worst, worst)]
