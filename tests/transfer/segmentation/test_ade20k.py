"""ADE20K from a generated folder in its official layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pretrain.common.errors import InputError
from transfer.segmentation.data import open_sets


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    rng = np.random.default_rng(0)
    ade = tmp_path / "ADEChallengeData2016"
    for split, folder in (("train", "training"), ("val", "validation")):
        for index in range(2):
            pixels = rng.integers(0, 256, (4, 16, 3), np.uint8)
            name = f"ADE_{split}_0000000{index + 1}"
            save(ade / "images" / folder / f"{name}.jpg", pixels)
            mask = rng.integers(0, 151, (4, 16), np.uint8)
            save(ade / "annotations" / folder / f"{name}.png", mask)
    lines = ["Idx\tRatio\tTrain\tVal\tStuff\tName"]
    lines += [f"{i}\t0.1\t10\t1\t0\tthing {i}, object {i}" for i in range(1, 151)]
    (ade / "objectInfo150.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_ade20k_leaves_its_number_0_out(root: Path) -> None:
    train, test = (open_sets([f"ade20k_sem_seg_{split}"]) for split in ("train", "val"))
    assert len(train) == len(test) == 2 and train.classes == test.classes
    assert len(train.classes) == 150 and train.classes[0] == "thing 1, object 1"
    sample = train.samples[1]
    assert sample.image_id == "ADE_train_00000002" and "images/training" in sample.file_name
    raw = np.asarray(Image.open(sample.mask_name))
    for wanted, found in zip(raw.flatten().tolist(), sample.mask().flatten().tolist()):
        assert found == (255 if wanted == 0 else wanted - 1)
    assert train.fingerprint.to_dict() != test.fingerprint.to_dict()


def test_what_is_missing_is_named_with_the_expected_files(root: Path) -> None:
    ade = root / "ADEChallengeData2016"
    (ade / "annotations/training/ADE_train_00000001.png").unlink()
    with pytest.raises(
        InputError, match="files of labels are missing.*ADE_train_00000001.png.*exp"
    ):
        open_sets(["ade20k_sem_seg_train"])
    names = ade / "objectInfo150.txt"
    names.write_text(names.read_text().rsplit("\n", 2)[0] + "\n")
    with pytest.raises(InputError, match="objectInfo150.txt must have .* 150 lines.*found 149"):
        open_sets(["ade20k_sem_seg_val"])
    names.unlink()
    with pytest.raises(InputError, match="objectInfo150.txt.*part of ADEChallengeData2016.zip"):
        open_sets(["ade20k_sem_seg_val"])
    with pytest.raises(InputError, match="unknown semantic segmentation data set.*ade20k_sem_seg"):
        open_sets(["ade20k"])


def test_sets_with_different_classes_are_not_mixed(root: Path) -> None:
    with pytest.raises(InputError, match="mix layouts; use only one layout"):
        open_sets(["ade20k_sem_seg_train", "cityscapes_fine_sem_seg_train"])


def test_a_mask_beyond_the_classes_is_refused(root: Path) -> None:
    from transfer.segmentation.transforms import read_pair

    folder = root / "ADEChallengeData2016/annotations/validation"
    save(folder / "ADE_val_00000001.png", np.full((4, 16), 151, np.uint8))
    sample = open_sets(["ade20k_sem_seg_val"]).samples[0]
    with pytest.raises(InputError, match="ADE_val_00000001.png has the number 150"):
        read_pair(sample, 150)
