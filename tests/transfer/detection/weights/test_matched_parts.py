"""Which parts of a different detector's file a detector starts from, and why not the others."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.transfer.detection import specs
from transfer.detection.weights.matched_parts import Part, match_parts, part_of, reordered

FPN = {
    **specs.FPN,
    **specs.R18,
    "MODEL.ROI_HEADS.NUM_CLASSES": 3,
    "MODEL.MASK_ON": True,
    "MODEL.ANCHOR_GENERATOR.SIZES": specs.LEVELS,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 7,
    "MODEL.ROI_BOX_HEAD.NUM_FC": 2,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 8,
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 1,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 8,
}
NO_MASKS = {"MODEL.MASK_ON": False}
NAMES = ["backbone", "FPN", "RPN", "box head", "box predictor", "mask head", "mask predictor"]


def state_of(changes: Mapping[str, Any] = MappingProxyType({})) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return specs.make_detector({**FPN, **changes}).state_dict()


def matched(own: dict, file: dict) -> dict[str, Part]:
    parts = match_parts({name: value.shape for name, value in own.items()}, file)
    assert len({part.name for part in parts}) == len(parts)
    return {part.name: part for part in parts}


def reasons(parts: dict[str, Part]) -> dict[str, str]:
    return {name: part.reason for name, part in parts.items() if not part.loaded}


def test_every_tensor_has_one_part() -> None:
    own = state_of()
    parts = matched(own, own)
    assert sorted(parts) == sorted(NAMES) and not reasons(parts)
    names = [name for part in parts.values() for name in part.names]
    assert sorted(names) == sorted(n for n in own if not n.endswith("num_batches_tracked"))
    assert part_of("roi_heads.res5.norm.weight") == "extra norm"
    assert part_of("roi_heads.res5.2.conv3.norm.weight") == "backbone"
    assert parts["backbone"].line() == f"backbone: {len(parts['backbone'].names)} tensors loaded"


def test_other_classes_are_expected() -> None:
    parts = matched(state_of({"MODEL.ROI_HEADS.NUM_CLASSES": 7}), state_of())
    why = "3 classes in the file, 7 here"
    assert reasons(parts) == {"box predictor": why, "mask predictor": why}
    line = f"box predictor: 4 tensors start at their initialisation, as expected: {why}"
    assert parts["box predictor"].line() == line


def test_with_and_without_masks() -> None:
    parts = matched(state_of(), state_of(NO_MASKS))
    assert set(reasons(parts)) == {"mask head", "mask predictor"}
    assert all(part.expected for part in parts.values())
    parts = matched(state_of(NO_MASKS), state_of())
    assert parts["mask head"].line() == "mask head: left out, the config has none"
    assert parts["mask head"].names == () and not parts["mask head"].loaded


@pytest.mark.parametrize(
    ("changes", "part", "reason"),
    [
        (
            {"MODEL.ROI_BOX_HEAD.FC_DIM": 9},
            "box head",
            r"fc1.weight is \(9, 12544\) in the file, \(8, ",
        ),
        (
            {"MODEL.ROI_BOX_HEAD.NUM_FC": 1},
            "box head",
            "the file has no roi_heads.box_head.fc2.bias",
        ),
        ({"MODEL.FPN.NORM": "BN"}, "FPN", "the file has no backbone.fpn_lateral2.bias"),
        (
            {"MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [[1.0]]},
            "RPN",
            r"is \(1, 256, 1, 1\) in the file, \(3, ",
        ),
        (
            {"MODEL.RESNETS.DEPTH": 34},
            "backbone",
            "the config has no backbone.bottom_up.res2.2.conv1",
        ),
    ],
)
def test_a_part_that_differs_is_not_loaded_by_halves(changes: dict, part: str, reason: str) -> None:
    parts = matched(state_of(), state_of(changes))
    assert not parts[part].loaded and not parts[part].expected
    assert re.search(reason, parts[part].reason), parts[part].reason
    count = len(parts[part].names)
    expected = f"{part}: {count} tensors start at their initialisation: "
    assert parts[part].line().startswith(expected)


def test_what_is_none_of_ours_is_left_out() -> None:
    file = {**state_of(), "sem_seg_head.predictor.weight": torch.zeros(1)}
    file["proposal_generator.anchor_generator.cell_anchors.0"] = torch.zeros(3, 4)
    parts = matched(state_of(), file)
    assert parts.pop("sem_seg_head").line() == "sem_seg_head: left out, the config has none"
    assert not reasons(parts)


def tensors(classes: int) -> dict[str, Tensor]:
    heads = "roi_heads.box_predictor."
    return {
        f"{heads}cls_score.weight": torch.arange(classes + 1.0)[:, None].repeat(1, 2),
        f"{heads}cls_score.bias": torch.arange(classes + 1.0),
        f"{heads}bbox_pred.weight": torch.arange(4.0 * classes)[:, None].repeat(1, 2),
        f"{heads}bbox_pred.bias": torch.arange(4.0 * classes),
        "roi_heads.mask_head.predictor.weight": torch.arange(1.0 * classes)[:, None, None, None],
        "roi_heads.mask_head.predictor.bias": torch.arange(1.0 * classes),
        "roi_heads.mask_head.deconv.bias": torch.arange(1.0 * classes),
    }


def test_rows_of_the_predictors_move_with_their_names() -> None:
    before = tensors(3)
    found = reordered(before, ["a", "b", "c"], ["c", "a", "b"])
    predictor = "roi_heads.box_predictor."
    assert found[f"{predictor}cls_score.bias"].tolist() == [2, 0, 1, 3], "background stays last"
    assert found[f"{predictor}cls_score.weight"][:, 1].tolist() == [2, 0, 1, 3]
    boxes = [8, 9, 10, 11, 0, 1, 2, 3, 4, 5, 6, 7]
    assert found[f"{predictor}bbox_pred.bias"].tolist() == boxes
    assert found[f"{predictor}bbox_pred.weight"][:, 0].tolist() == boxes
    assert found["roi_heads.mask_head.predictor.bias"].tolist() == [2, 0, 1]
    assert found["roi_heads.mask_head.predictor.weight"].flatten().tolist() == [2, 0, 1]
    assert found["roi_heads.mask_head.deconv.bias"].tolist() == [0, 1, 2]
    back = reordered(found, ["c", "a", "b"], ["a", "b", "c"])
    assert all(torch.equal(back[name], value) for name, value in before.items())


def test_predictors_of_other_classes_start_from_scratch() -> None:
    shapes = {name: tuple(value.shape) for name, value in tensors(3).items()}
    parts = {part.name: part for part in match_parts(shapes, tensors(3), "its classes are others")}
    assert parts["mask head"].loaded
    for name in ("box predictor", "mask predictor"):
        assert parts[name].reason == "its classes are others" and parts[name].expected
