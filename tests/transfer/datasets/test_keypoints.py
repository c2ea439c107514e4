"""Keypoints of COCO files: which are swapped in a mirror, how they are read and fingerprinted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pretrain.common.errors import InputError
from transfer.datasets.keypoints import flip_order, flip_pairs, read_keypoint_names
from transfer.datasets.samples import DetectionSet, Instance, Sample

COCO = (
    "nose left_eye right_eye left_ear right_ear left_shoulder right_shoulder left_elbow "
    "right_elbow left_wrist right_wrist left_hip right_hip left_knee right_knee left_ankle "
    "right_ankle"
).split()


def test_cocos_persons() -> None:
    assert flip_order(COCO) == (0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15)
    assert flip_pairs(COCO)[0] == ("left_eye", "right_eye") and len(flip_pairs(COCO)) == 8


@pytest.mark.parametrize(
    "names, order",
    [
        (["top", "bottom", "left", "right"], (0, 1, 3, 2)),
        (["LeftEye", "RightEye", "Upright", "bright"], (1, 0, 2, 3)),
        (["L_Eye", "R_Eye", "tail", "Root"], (1, 0, 2, 3)),
        (["paw.r", "paw.l"], (1, 0)),
        (["EAR LEFT", "EAR RIGHT"], (1, 0)),
    ],
)
def test_sides_are_read_from_names(names: list[str], order: tuple[int, ...]) -> None:
    assert flip_order(names) == order
    assert flip_order([names[place] for place in order]) == order or len(set(names)) == 4


def test_a_side_that_is_alone() -> None:
    with pytest.raises(InputError, match="'left_eye' .'right_eye' is missing."):
        flip_order(["nose", "left_eye"])
    assert flip_pairs(["nose", "left_eye"]) == flip_pairs(["nose", "0"]) == flip_pairs([]) == []


def test_names_in_a_file(tmp_path: Path) -> None:
    def read(*lists: object) -> tuple[str, ...]:
        categories = [
            {"id": k, "name": str(k), "keypoints": names} for k, names in enumerate(lists)
        ]
        return read_keypoint_names(tmp_path / "x.json", {"categories": categories}, 2)

    assert read(["a", "b"], None, []) == ("a", "b") and read(None) == ()
    for lists, message in (
        ((["a", "b"], ["b", "a"]), "its categories name different keypoints"),
        ((["a", 3],), "is not a list of names"),
        (("ab",), "is not a list of names"),
        ((["a", "a"],), "lists the name .a. twice"),
        ((["a", "b", "c"],), "names 3 keypoints .*NUM_KEYPOINTS is 2; set it to 3"),
    ):
        with pytest.raises(InputError, match=f"x.json.*{message}"):
            read(*lists)


def test_the_fingerprint_sees_keypoints() -> None:
    def data(*keypoints: float) -> DetectionSet:
        instance = Instance((1.0, 2.0, 30.0, 40.0), 0, keypoints=keypoints or None)
        sample = Sample(__file__, 1, 50, 60, (instance,))
        return DetectionSet("coco:x", "coco", (sample,), ("a",), (1,))

    shas = {data(*k).fingerprint.sha256 for k in ((), (1.5, 2.5, 2), (1.5, 2.5, 1), (1.5, 3.5, 2))}
    assert len(shas) == 4
    assert data().fingerprint.sha256 == replace(data(), num_keypoints=1).fingerprint.sha256
