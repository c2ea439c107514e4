"""Which parts of another detector's file a detector starts from, and why not the others."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest
import torch

from tests.transfer.detection import specs
from transfer.detection.weights.parts import Part, match_parts, part_of

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


def anew(parts: dict[str, Part]) -> dict[str, str]:
    return {name: part.reason for name, part in parts.items() if not part.loaded}


def test_every_tensor_has_one_part() -> None:
    own = state_of()
    parts = matched(own, own)
    assert sorted(parts) == sorted(NAMES) and not anew(parts)
    names = [name for part in parts.values() for name in part.names]
    assert sorted(names) == sorted(n for n in own if not n.endswith("num_batches_tracked"))
    assert part_of("roi_heads.res5.norm.weight") == "extra norm"
    assert part_of("roi_heads.res5.2.conv3.norm.weight") == "backbone"
    assert parts["backbone"].line() == f"backbone: {len(parts['backbone'].names)} tensors loaded"


def test_other_classes_are_expected() -> None:
    parts = matched(state_of({"MODEL.ROI_HEADS.NUM_CLASSES": 7}), state_of())
    why = "3 classes in the file, 7 here"
    assert anew(parts) == {"box predictor": why, "mask predictor": why}
    line = "box predictor: 4 tensors start anew, as expected: 3 classes in the file, 7 here"
    assert parts["box predictor"].line() == line


def test_with_and_without_masks() -> None:
    parts = matched(state_of(), state_of(NO_MASKS))
    assert set(anew(parts)) == {"mask head", "mask predictor"}
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
    assert parts[part].line().startswith(f"{part}: {len(parts[part].names)} tensors start anew: ")


def test_what_is_none_of_ours_is_left_out() -> None:
    file = {**state_of(), "sem_seg_head.predictor.weight": torch.zeros(1)}
    file["proposal_generator.anchor_generator.cell_anchors.0"] = torch.zeros(3, 4)
    parts = matched(state_of(), file)
    assert parts.pop("sem_seg_head").line() == "sem_seg_head: left out, the config has none"
    assert not anew(parts)
