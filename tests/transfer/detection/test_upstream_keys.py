"""What happens to each key of Detectron2: none is accepted and then ignored without a reason."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest
import yaml

from pretrain.common.config import flat
from pretrain.common.errors import InputError
from tests.transfer.detection import specs
from transfer.detection.config import (
    all_defaults,
    changed,
    load_detection_config,
    load_merged,
    protocol_sha256,
)
from transfer.detection.config_checks import value_of
from transfer.detection.defaults import make_defaults
from transfer.detection.torchvision_engine.meta_architectures import find_spec
from transfer.detection.upstream_keys import (
    ABSENT,
    HONOURED,
    NO_EFFECT,
    NO_EFFECT_DEFAULTS,
    ONLY,
)

TABLES = {"HONOURED": HONOURED, "ONLY": ONLY, "ABSENT": ABSENT, "NO_EFFECT": NO_EFFECT}
OURS = {"SEED": 0}  # Detectron2's -1 is unseeded
# Values that are read in another way than by their first number.
OTHER = {
    "MODEL.ROI_HEADS.NAME": "Res5ROIHeadsExtraNorm",
    "MODEL.RPN.CONV_DIMS": [-1, -1],
}
# Other values that a detector may have, of keys whose specs are checked.
ALLOWED = {
    "MODEL.RESNETS.DEPTH": 101,
    "MODEL.RESNETS.NORM": "BN",
    "MODEL.RESNETS.OUT_FEATURES": ["res3", "res4", "res5"],
    "MODEL.FPN.IN_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.FPN.NORM": "BN",
    "MODEL.RPN.IN_FEATURES": ["p3"],
    "MODEL.RPN.IOU_THRESHOLDS": [0.4, 0.7],
    "MODEL.ROI_HEADS.IN_FEATURES": ["p3"],
    "MODEL.FPN.FUSE_TYPE": "avg",
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIAlign",
    "MODEL.ROI_MASK_HEAD.POOLER_TYPE": "ROIAlign",
    "MODEL.ROI_KEYPOINT_HEAD.POOLER_TYPE": "ROIAlign",
    "MODEL.RETINANET.IN_FEATURES": ["p3", "p5"],
    "MODEL.RETINANET.NORM": "GN",
    "MODEL.RETINANET.PRIOR_PROB": 0.1,
    "MODEL.RETINANET.IOU_THRESHOLDS": [0.4, 0.6],
    "MODEL.RETINANET.FOCAL_LOSS_ALPHA": 0.5,
    "MODEL.RETINANET.BBOX_REG_LOSS_TYPE": "diou",
    "MODEL.RPN.BBOX_REG_LOSS_TYPE": "giou",
    "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE": "ciou",
    "MODEL.ROI_BOX_CASCADE_HEAD.IOUS": [0.5, 0.7, 0.9],
    "MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS": [[10.0, 10.0, 5.0, 5.0]] * 3,
    "MODEL.ROI_BOX_HEAD.NORM": "BN",
    "MODEL.ROI_MASK_HEAD.NORM": "BN",
}
MASKS = {"MODEL.MASK_ON": True, "MODEL.ROI_BOX_HEAD.NUM_FC": 1, "MODEL.FPN.NORM": "GN"}
C4 = {"MODEL.MASK_ON": True}
# Where a key is read only by some detectors: what makes such a one of the FPN.
CASCADE = {
    "MODEL.ROI_HEADS.NAME": "CascadeROIHeads",
    "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": True,
}
RETINANET = {
    "MODEL.META_ARCHITECTURE": "RetinaNet",
    "MODEL.BACKBONE.NAME": "build_retinanet_resnet_fpn_backbone",
    "MODEL.MASK_ON": False,
}
C5 = {
    "MODEL.BACKBONE.NAME": "build_resnet_backbone",
    "MODEL.RPN.IN_FEATURES": ["res5"],
    "MODEL.ROI_HEADS.IN_FEATURES": ["res5"],
}
READ_BY = {
    "MODEL.ROI_BOX_CASCADE_HEAD.": CASCADE,
    "MODEL.RETINANET.": RETINANET,
    "MODEL.RESNETS.RES5_DILATION": C5,
    "MODEL.ROI_KEYPOINT_HEAD.": {"MODEL.KEYPOINT_ON": True},
}
FROM_RES3 = {
    "MODEL.FPN.IN_FEATURES": ["res3", "res4", "res5"],
    "MODEL.RPN.IN_FEATURES": ["p3", "p4"],
    "MODEL.ROI_HEADS.IN_FEATURES": ["p3", "p4"],
}
FPN = Path(__file__).parents[3] / "configs/detection/voc_fpn.yaml"


def upstream() -> dict[str, Any]:
    """All 192 leaves with Detectron2's defaults, from the tables and our own defaults."""
    known = flat(all_defaults())
    return {key: known[key] for table in TABLES.values() for key in table}


def other(key: str, value: Any) -> Any:
    """Another value than the default, of its type."""
    if key in OTHER:
        return OTHER[key]
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    if isinstance(value, list):
        return [other("", value[0]), *value[1:]] if value else ["x"]
    return "another"


def test_each_key_is_in_one_table() -> None:
    keys = [key for table in TABLES.values() for key in table]
    assert len(keys) == len(set(keys)) == 192
    ours = {key for key in flat(make_defaults()) if not key.startswith("TRANSFER.")}
    assert ours - set(keys) == set(), "keys outside TRANSFER are Detectron2's"
    assert not ours & {*ABSENT, *NO_EFFECT_DEFAULTS}
    assert set(NO_EFFECT_DEFAULTS) <= set(NO_EFFECT) and all(NO_EFFECT.values())


@pytest.mark.parametrize("key", HONOURED)
def test_honoured_keys_are_read_by_the_named_code(key: str) -> None:
    place, code = HONOURED[key].split("."), None
    for split in range(len(place), 0, -1):
        try:
            code = importlib.import_module(".".join(place[:split]))
            break
        except ModuleNotFoundError:
            continue
    for name in place[split:]:
        code = getattr(code, name)
    assert key.rpartition(".")[2] in inspect.getsource(code)


@pytest.mark.parametrize(
    "key",
    [
        key
        for key, place in HONOURED.items()
        if place.endswith(".from_config") and key != "MODEL.ROI_BOX_HEAD.NAME"
    ],
)
def test_another_value_builds_another_detector(key: str) -> None:
    """Of the box head's name there is only one, which test_config_checks.py holds."""
    # An FPN reads each key but the NAME of C4's heads; from res3, so that its maps can be others.
    base = C4 if key == "MODEL.ROI_HEADS.NAME" else {**specs.FPN, **MASKS, **FROM_RES3}
    for prefix, keys in READ_BY.items():
        base = {**base, **keys} if key.startswith(prefix) else base
    cfg = changed(make_defaults(), base)
    value = value_of(cfg, key)
    new = other(key, list(value) if isinstance(value, tuple) else value)
    spec = find_spec(cfg.MODEL.META_ARCHITECTURE)
    before = spec.from_config(cfg)
    assert spec.from_config(changed(cfg, {key: ALLOWED.get(key, new)})) != before


@pytest.mark.parametrize("key", [*ONLY, *ABSENT])
def test_other_keys_are_refused_unless_at_the_default(key: str, tmp_path: Path) -> None:
    value = upstream()[key]
    write(tmp_path, {key: value})
    default = load_detection_config(str(tmp_path / "top.yaml"))
    assert protocol_sha256(default) == protocol_sha256(load_detection_config(str(FPN)))
    write(tmp_path, {key: other(key, value)})
    with pytest.raises(InputError, match=f"top.yaml: {key} .*the only value: ") as error:
        load_detection_config(str(tmp_path / "top.yaml"))
    foreign = "a key of Detectron2 that is not supported here" in str(error.value)
    assert foreign == (key in ABSENT)


def test_keys_without_effect_are_accepted_and_leave_no_trace(tmp_path: Path) -> None:
    write(tmp_path, {k: other(k, v) for k, v in flat(NO_EFFECT_DEFAULTS).items()})
    cfg = load_detection_config(str(tmp_path / "top.yaml"))
    assert cfg == load_detection_config(str(FPN)), "not a key more than ours"


def test_all_unsupported_keys_are_named_at_once(tmp_path: Path) -> None:
    keys = {"MODEL.LOAD_PROPOSALS": True, "MODEL.RPN.HEAD_NAME": "Other", "TEST.AUG.ENABLED": True}
    write(tmp_path, {**keys, "MODEL.ROI_HEADS.NAME": "NoSuchHeads"})
    with pytest.raises(InputError) as error:
        load_detection_config(str(tmp_path / "top.yaml"))
    assert all(key in str(error.value) for key in (*keys, "'NoSuchHeads'"))
    assert "\n" not in str(error.value)
    load_detection_config(
        str(tmp_path / "top.yaml"),
        [word for key, value in keys.items() for word in (key, str(upstream()[key]))]
        + ["MODEL.ROI_HEADS.NAME", "StandardROIHeads"],
    )


def test_a_dump_of_detectron2_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """All keys at Detectron2's defaults, as its trainer writes them, and one that is a typo."""
    dump = {**upstream(), "SEED": -1, "DATASETS.TEST": ["coco_2017_val"]}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(nested(dump)))
    cfg = load_detection_config(str(tmp_path / "config.yaml"))
    assert flat(cfg) == {**flat(make_defaults()), "DATASETS.TEST": ["coco_2017_val"]}
    assert [r.getMessage() for r in caplog.records] == [
        f"{tmp_path}/config.yaml: SEED -1, unseeded in Detectron2, is read as 0"
    ]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(nested({**dump, "MODEL.MASK_OM": True})))
    with pytest.raises(InputError, match=r"unknown key MODEL.MASK_OM \(did you mean .*MASK_ON"):
        load_detection_config(str(tmp_path / "config.yaml"))


def test_the_guide_names_every_key() -> None:
    text = (FPN.parents[2] / "docs" / "detectron2.md").read_text()
    missing = [key for table in (ONLY, ABSENT) for key in table if f"`{key}`" not in text]
    assert not missing


@pytest.mark.detectron2
def test_the_tables_are_detectron2s() -> None:
    defaults = pytest.importorskip("detectron2.config.defaults")
    theirs = {k: v for k, v in flat(defaults._C).items() if not k.startswith("TRANSFER.")}
    assert {**upstream(), **{"SEED": -1}} == theirs and OURS == {"SEED": load_merged(str(FPN)).SEED}


def nested(keys: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in keys.items():
        *parents, last = key.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return tree


def write(folder: Path, keys: dict[str, Any]) -> None:
    text = yaml.safe_dump({"_BASE_": str(FPN), **nested(flat(keys))})
    (folder / "top.yaml").write_text(text)
