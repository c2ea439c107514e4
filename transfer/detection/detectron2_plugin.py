"""What plain Detectron2 needs to run our configs: import this module in your own script.

On import: registers the head `Res5ROIHeadsExtraNorm` (MoCo's), the backbones
`build_vit_sfp_backbone` (ViTDet's) and `build_tiny_resnet_backbone` (ours, for the digits) and the
`TRANSFER` node of the config. `detectron2_recipe.RecipeTrainer` is the DefaultTrainer that follows
the node's AdamW, layer-wise decay and large-scale jitter.
Detectron2 brings the built-in data sets itself, and Cityscapes with a reader that does not run
outside its authors' tree: `register_datasets(cfg)` puts ours in its place, and adds those named
`voc:FOLDER:SPLIT`, `coco:FOLDER:SPLIT`, `coco:FILE.json:IMAGES` and `lvis:FILE.json:IMAGES`, and
parts such as `coco_2017_train@1%` and `voc_2007_trainval@10shot`, whose draw is SEED (0 if
Detectron2's is negative).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.config.defaults import _C as DEFAULTS
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.layers import CNNBlockBase, Conv2d, ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, ROI_HEADS_REGISTRY, ResNet
from detectron2.modeling.backbone.resnet import BasicBlock
from detectron2.modeling.roi_heads import Res5ROIHeads
from detectron2.structures import BoxMode
from torch import nn

import transfer.detection.detectron2_vit  # noqa: F401  (registers the backbone)
from transfer.datasets.keypoints import flip_pairs
from transfer.datasets.registry import open_sets
from transfer.datasets.samples import DetectionSet, Instance, Sample
from transfer.detection.defaults import make_transfer
from transfer.detection.torchvision_engine.resnet import TINY_STAGES, TINY_STEM_CHANNELS

if "TRANSFER" not in DEFAULTS:
    DEFAULTS.TRANSFER = CfgNode(make_transfer())


@ROI_HEADS_REGISTRY.register()
class Res5ROIHeadsExtraNorm(Res5ROIHeads):
    """Is the C4 head with one more norm after res5, which has no ReLU after it.

    As in facebookresearch/moco, detection/train_net.py; `Res5ROIHeads` of our own engine says why.
    """

    @classmethod
    def _build_res5_block(cls, cfg: CfgNode) -> tuple[nn.Sequential, int]:
        stage, channels = super()._build_res5_block(cfg)
        stage.add_module("norm", get_norm(cfg.MODEL.RESNETS.NORM, channels))
        return stage, channels


class TinyStem(CNNBlockBase):
    """Is a 3x3 stride-2 convolution without a pool, from (N, 3, H, W) to (N, 32, H / 2, W / 2)."""

    def __init__(self, norm: str) -> None:
        channels = TINY_STEM_CHANNELS
        super().__init__(3, channels, 2)
        normed = get_norm(norm, channels)
        self.conv1 = Conv2d(
            3, channels, kernel_size=3, stride=2, padding=1, bias=False, norm=normed
        )
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return F.relu_(self.conv1(x))


@BACKBONE_REGISTRY.register()
def build_tiny_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """Returns `tiny_resnet` of pretrain.backbones in Detectron2's layout: res4, stride 8, 128
    channels.
    """
    norm = cfg.MODEL.RESNETS.NORM
    stages = [
        ResNet.make_stage(
            BasicBlock, 1, in_channels=inputs, out_channels=outputs, stride=stride, norm=norm
        )
        for inputs, outputs, stride in TINY_STAGES
    ]
    freeze_at = cfg.MODEL.BACKBONE.FREEZE_AT
    return ResNet(TinyStem(norm), stages, out_features=["res4"], freeze_at=freeze_at)


def register_datasets(cfg: CfgNode) -> None:
    """Registers the names of DATASETS.TRAIN and .TEST that Detectron2 does not have.

    Raises InputError for whatever is missing or malformed in them.
    """
    draw = max(cfg.SEED, 0)
    first = {"voc_counts_from": cfg.TRANSFER.VOC_COUNTS_FROM}
    count = cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS if cfg.MODEL.KEYPOINT_ON else 0
    train_set = open_sets(
        cfg.DATASETS.TRAIN, cfg.TRANSFER.CLASSES, draw=draw, keypoints=count, **first
    )
    for names, number in ((cfg.DATASETS.TRAIN, draw), (cfg.DATASETS.TEST, None)):
        for name in names:
            # Detectron2's own reader of Cityscapes imports a module that only its authors have.
            if ":" in name or "@" in name or name.startswith("cityscapes_"):
                register(name, open_sets([name], like=train_set, draw=number, **first))


def register(name: str, dataset: DetectionSet) -> None:
    """Makes one data set known to Detectron2 under a name, replacing an older one."""
    if name in DatasetCatalog.list():
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    count = dataset.num_keypoints
    DatasetCatalog.register(name, lambda: [to_dict(sample, count) for sample in dataset.samples])
    metadata: dict[str, Any] = {"thing_classes": list(dataset.classes)}
    if count:
        names = dataset.keypoint_names or tuple(map(str, range(count)))
        metadata["keypoint_names"] = names
        metadata["keypoint_flip_map"] = flip_pairs(dataset.keypoint_names)
    if dataset.layout in ("coco", "lvis"):
        metadata["evaluator_type"] = dataset.layout
        metadata["json_file"] = str(dataset.annotation_file)
        ids = enumerate(dataset.category_ids)
        metadata["thing_dataset_id_to_contiguous_id"] = {key: index for index, key in ids}
    MetadataCatalog.get(name).set(**metadata)


def to_dict(sample: Sample, keypoints: int = 0) -> dict[str, Any]:
    """Returns one image in Detectron2's standard form; `keypoints`: how many an object has."""
    return {
        "file_name": sample.file_name,
        "image_id": sample.image_id,
        "height": sample.height,
        "width": sample.width,
        "annotations": [_annotation(instance, keypoints) for instance in sample.instances],
    }


def _annotation(instance: Instance, keypoints: int) -> dict[str, Any]:
    annotation: dict[str, Any] = {
        "bbox": list(instance.box),
        "bbox_mode": BoxMode.XYXY_ABS,
        "category_id": instance.category,
        "iscrowd": int(instance.crowd),
    }
    if keypoints:
        annotation["keypoints"] = list(instance.keypoints or (0.0,) * (3 * keypoints))
    mask = instance.polygons or instance.rle
    return {**annotation, "segmentation": mask} if mask else annotation
