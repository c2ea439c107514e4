"""The README's table of protocols: the tables of the field, their sources and what was run here.

The README is written by hand but for the lines between two marks, which `readme` replaces. Each row
is a group of configs; its state follows from those of its configs (`protocol_state.py`).
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from benchmarks.marked_page import replaced
from docs.generate.config_headers import read_header
from docs.generate.markdown_table import code, table
from docs.generate.protocol_state import CONFIGS, FORMAT, NO_RECORD, ROOT, RUN, SMALL, state_of

MODULE = "docs.generate"


class Group(NamedTuple):
    """Protocols that one table of the literature compares.

    Attributes:
        title: what is measured.
        folder: folder of the configs, below configs/.
        patterns: patterns of the configs' names, with blanks between them.
        source: whose protocols these are.
    """

    title: str
    folder: str
    patterns: str
    source: str

    def configs(self) -> list[Path]:
        """Returns the configs' files, by name."""
        names = self.patterns.split()
        return sorted(
            {file for one in names for file in (CONFIGS / self.folder).glob(f"{one}.yaml")}
        )


_DETECTION, _SEMANTIC, _CLASSIFICATION = "detection", "detection/semantic", "classification"
GROUPS = (
    Group("VOC detection", _DETECTION, "voc_mscn* voc_[rs]*", "MoCo, TFA"),
    Group(
        "COCO boxes and masks",
        _DETECTION,
        "coco_mscn coco_mscn_[0-9f]* coco_[rs]*",
        "MoCo, PyContrast",
    ),
    Group(
        "COCO, ConvNeXt and ViT", _DETECTION, "coco_mscn_convnext* coco_vitdet*", "ConvNeXt, ViTDet"
    ),
    Group("COCO keypoints", _DETECTION, "coco_mscn_keypoint*", "MoCo, Detectron2"),
    Group("LVIS v1", _DETECTION, "lvis_*", "Detectron2"),
    Group("Cityscapes instances", _DETECTION, "cityscapes_*", "MoCo, DetCo"),
    Group(
        "Frozen backbone",
        _DETECTION,
        "voc_ericsson* voc_frozen* coco_bob*",
        "Ericsson et al., Battle of the Backbones",
    ),
    Group("Small real photographs", _DETECTION, "groceries_fpn voc20* coco_mini*", "our own"),
    Group("Segmentation, FCN", _SEMANTIC, "voc12aug_fcn* cityscapes_fcn", "MoCo"),
    Group("Segmentation, UPerNet", _SEMANTIC, "ade20k_upernet*", "MAE"),
    Group("Segmentation, linear probe", _SEMANTIC, "[acv]*_linear_probe", "DINOv3"),
    Group(
        "ImageNet, linear and kNN",
        _CLASSIFICATION,
        "linear_imagenet* k*_imagenet",
        "the methods' own papers",
    ),
    Group("ImageNet, few labels", _CLASSIFICATION, "semi_*", "SimCLR, SwAV, Barlow Twins, VICReg"),
    Group("iNaturalist 2018, Places205", _CLASSIFICATION, "linear_inat* linear_places*", "VISSL"),
    Group("VOC07 SVM", _CLASSIFICATION, "svm_*", "VISSL"),
    Group("12 sets of natural images", _CLASSIFICATION, "natural_*", "SimCLR, BYOL"),
    Group(
        "ImageNet-V2, -R, -A, -Sketch, -C",
        _CLASSIFICATION,
        "robustness_imagenet*",
        "the sets' authors",
    ),
)


def readme() -> str:
    """Returns the README's text with the table as it is now."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = ((group.title, group.source, _state(group)) for group in GROUPS)
    return replaced(text, MODULE, table(("protocols", "source", "state"), rows).splitlines())


def _state(group: Group) -> str:
    """Returns the states of the group's configs, with what shows that they were run."""
    found: dict[str, dict[str, list[str]]] = {}
    for path in group.configs():
        state = state_of(path, read_header(path))
        shown = state.evidence if state.was_run else ()
        links = [one.replace("(results/", "(docs/results/") for one in shown]
        found.setdefault(state.kind, {})[path.stem] = links
    parts = []
    for kind in (RUN, SMALL, NO_RECORD, FORMAT):
        members = found.get(kind, {})
        if not members:
            continue
        names = "the others" if kind == FORMAT else ", ".join(map(code, members))
        evidence = ", ".join(sorted({one for shown in members.values() for one in shown}))
        said = f"{kind} ({evidence})" if evidence else kind
        parts.append(f"{names}: {said}" if len(found) > 1 else said)
    return "; ".join(parts)
