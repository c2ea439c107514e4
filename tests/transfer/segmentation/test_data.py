"""Names, layout and errors of semantic segmentation data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from pretrain.common.errors import InputError
from pretrain.data.fingerprint import difference
from pretrain.digits.dataset import make_digits
from tests.transfer.annotated import coco_content, write_coco
from transfer.datasets.numbered_pixels import read_mask
from transfer.datasets.samples import Instance, Sample
from transfer.segmentation.data import (
    CLASSES,
    SemanticSample,
    check_listed_classes,
    open_sets,
    read_split,
)
from transfer.segmentation.instances import class_map
from transfer.segmentation.transforms import read_pair


def test_voc12aug_takes_each_mask_from_where_it_is(
    make_semseg: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    folder = make_semseg(tmp_path / "VOC2012", aug=True)
    lists = folder / "ImageSets" / "Segmentation"
    (lists / "train.txt").rename(lists / "train_aug.txt")
    # An image with VOC's own mask and SBD's: VOC's is taken.
    official = folder / "SegmentationClass" / "train_0.png"
    official.write_bytes((folder / "SegmentationClassAug" / "train_0.png").read_bytes())
    train = open_sets(["voc_2012_sem_seg_train_aug"])
    val = open_sets(["voc_2012_sem_seg_val"], like=train)
    assert train.classes == val.classes == CLASSES and len(CLASSES) == 21
    assert CLASSES[0] == "background" and CLASSES[15] == "person"
    folders = [Path(sample.mask_name).parent.name for sample in train.samples]
    assert folders == ["SegmentationClass"] + ["SegmentationClassAug"] * 5
    assert [sample.image_id for sample in val.samples] == ["val_0", "val_1", "val_2"]
    assert len(train.limited(2)) == 2 and len(train.limited(0)) == 6
    # DeepLab's lists name paths below the data's root.
    (lists / "val.txt").write_text("/JPEGImages/val_1.jpg /SegmentationClassAug/val_1.png\n")
    assert open_sets(["voc_2012_sem_seg_val"]).samples == val.samples[1:2]


def test_classes_of_own_data(
    make_semseg: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_semseg(tmp_path / "own")
    name = f"semseg:{folder}:train"
    masks = [read_mask(sample.mask_name) for sample in open_sets([name]).samples]
    highest = max(int(mask[mask != 255].max()) for mask in masks)
    assert open_sets([name]).classes == tuple(map(str, range(highest + 1)))
    listed = ["background", *"0123456789"]
    (folder / "classes.txt").write_text("\n".join(listed) + "\n")
    assert open_sets([name]).classes == tuple(listed)
    assert open_sets([name], ["x", "y"]).classes == ("x", "y")
    both = open_sets([name, f"semseg:{folder}:val"])
    assert len(both) == 9 and both.name == f"{name}+semseg:{folder}:val"
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    assert open_sets(["semseg:own:train"]).samples == open_sets([name]).samples


@pytest.mark.parametrize(
    "content, words",
    [(b"caf\xe9\n", "not a list of classes in UTF-8"), (b" \n", "does not list any class")]
    + [(b"a\x1b[2J\n", "cannot be printed")],
)
def test_a_bad_list_of_classes_is_refused_in_one_line(
    content: bytes, words: str, make_semseg: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_semseg(tmp_path / "own")
    (folder / "classes.txt").write_bytes(content)
    with pytest.raises(InputError, match=f"classes.txt .*{words}") as refused:
        open_sets([f"semseg:{folder}:train"])
    assert str(refused.value).isprintable()


def test_layout_errors_show_the_expected_tree(
    make_semseg: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))

    def refuse(name: str, *parts: str) -> None:
        with pytest.raises(InputError) as error:
            open_sets([name])
        assert all(part in str(error.value) for part in parts), error.value
        assert "\n" not in str(error.value)

    missing = f"{tmp_path}/VOC2012 is missing"
    tree = "ImageSets/Segmentation/train_aug.txt"
    refuse("voc_2012_sem_seg_train_aug", missing, "SegmentationClassAug", tree, "10,582")
    refuse("semseg:x", "semseg:FOLDER:SPLIT")
    refuse("voc_2012_sem_seg_vol", "unknown semantic segmentation", "voc_2012_sem_seg_val")
    folder = make_semseg(tmp_path / "own")
    (folder / "SegmentationClass" / "val_1.png").unlink()
    refuse("semseg:own:val", "masks are neither in", "(1: val_1.png)", "JPEGImages/*.jpg")
    (folder / "JPEGImages" / "val_0.jpg").unlink()
    refuse("semseg:own:val", "images are missing (1: ", "val_0.jpg)", "expected")
    (folder / "ImageSets" / "Segmentation" / "val.txt").write_text("\n")
    refuse("semseg:own:val", "val.txt does not list any image")
    with pytest.raises(InputError, match="listed twice: a, a"):
        open_sets(["semseg:own:train"], ["a", "a"])


def test_lists_and_files_as_tools_write_them(
    make_semseg: Callable[..., Path], tmp_path: Path
) -> None:
    """VOC's rules: byte order mark, suffixes, quotes, DeepLab's pairs, suffixes in any case."""
    folder = make_semseg(tmp_path / "own")
    plain = read_split(folder, "train")
    stems = [sample.image_id for sample in plain]
    image = folder / "JPEGImages" / f"{stems[0]}.jpg"
    image.rename(image.with_suffix(".JPG"))
    forms = (
        "\ufeff{}.jpg",
        '"{}"',
        "/JPEGImages/{0}.jpg /SegmentationClass/{0}.png",
        "{} 1",
    )
    lines = [forms[i % len(forms)].format(stem) for i, stem in enumerate(stems)]
    (folder / "ImageSets/Segmentation/train.txt").write_text("\n".join(lines))
    found = read_split(folder, "train")
    assert [s.image_id for s in found] == stems
    assert [s.mask_name for s in found] == [s.mask_name for s in plain]
    assert found[0].file_name.endswith(".JPG")
    with (folder / "ImageSets/Segmentation/train.txt").open("a") as listing:
        listing.write(f"\n{stems[0]}\n")
    with pytest.raises(InputError, match=rf"listed more than once \(1: {stems[0]}\)"):
        read_split(folder, "train")


def test_damaged_pairs_name_their_file(tmp_path: Path) -> None:
    image, mask = tmp_path / "i.jpg", tmp_path / "m.png"
    Image.new("RGB", (8, 6)).save(image)
    sample = SemanticSample(str(image), str(mask), "i")
    Image.fromarray(np.full((6, 8), 3, np.uint8)).save(mask)
    read_pair(sample, 4)
    with pytest.raises(InputError, match="m.png has the number 3, but there are 3 classes"):
        read_pair(sample, 3)
    Image.fromarray(np.zeros((6, 9), np.uint8)).save(mask)
    with pytest.raises(InputError, match="m.png has 9 x 6 pixels, but its image has 8 x 6"):
        read_pair(sample, 3)
    Image.new("RGB", (8, 6)).save(mask)
    with pytest.raises(InputError, match=r"m.png has colours \(RGB\), not class numbers"):
        read_pair(sample, 3)
    mask.write_bytes(mask.read_bytes()[:40])
    with pytest.raises(InputError, match="m.png cannot be read"):
        read_pair(sample, 3)


def test_a_palette_is_not_looked_up(tmp_path: Path) -> None:
    numbers = np.array([[0, 15, 255]], np.uint8)
    image = Image.fromarray(numbers)
    image.putpalette([0, 0, 0] + [192, 128, 128] * 255)
    image.save(tmp_path / "m.png")
    assert np.array_equal(read_mask(str(tmp_path / "m.png")), numbers)


def test_objects_become_class_maps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Digits' scenes, whose masks do not overlap: class by class, what pycocotools draws."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "d"))
    make_digits(tmp_path / "d", seed=3, classification=(10, 10, 10), scenes=(4, 1, 2))
    train = open_sets(["coco:digits_coco:train"])
    assert train.classes == ("background", *"0123456789")
    coco = COCO(str(tmp_path / "d/digits_coco/annotations/instances_train.json"))
    for sample in train.samples:
        wanted = np.zeros((128, 128), np.uint8)
        for one in coco.imgToAnns[int(sample.image_id)]:
            wanted[coco.annToMask(one).astype(bool)] = one["category_id"]
        pixels, mask = read_pair(sample, 11)
        assert np.array_equal(mask, wanted) and mask.any()
    test = open_sets(["coco:digits_coco:test"], like=train)
    assert test.classes == train.classes and len(test) == 2
    with pytest.raises(InputError, match="must begin with 'background', got '0'"):
        open_sets(["coco:digits_coco:train"], list("0123456789"))
    with pytest.raises(InputError, match="mix masks and objects; use"):
        open_sets(["coco:digits_coco:train", "semseg:x:y"])


def test_disputed_and_crowd_pixels_are_ignored() -> None:
    def square(left: int, category: int, crowd: bool = False) -> Instance:
        polygon = [float(v) for v in (left, 0, left + 4, 0, left + 4, 4, left, 4)]
        box = (float(left), 0.0, left + 4.0, 4.0)
        return Instance(box, category, crowd=crowd, polygons=[polygon])

    objects = (square(0, 0), square(2, 0), square(4, 1), square(10, 1, crowd=True))
    row = class_map(Sample("x.jpg", 1, 4, 16, objects))[1].tolist()
    assert row == [1, 1, 1, 1, 255, 255, 2, 2, 0, 0, 255, 255, 255, 255, 0, 0]


def test_the_fingerprint_is_that_of_images_masks_and_classes(
    make_semseg: Callable[..., Path], tmp_path: Path
) -> None:
    folders = [make_semseg(tmp_path / root / "set") for root in ("one", "two")]
    first, second = (open_sets([f"semseg:{folder}:train"]) for folder in folders)
    assert first.fingerprint == second.fingerprint
    listing = folders[1] / "ImageSets/Segmentation/train.txt"
    listing.write_text("\n".join(reversed(listing.read_text().split())))
    assert open_sets([f"semseg:{folders[1]}:train"]).fingerprint == first.fingerprint
    mask = folders[1] / "SegmentationClass/train_1.png"
    content = bytearray(mask.read_bytes())
    content[-20] ^= 1  # of the same length
    mask.write_bytes(content)
    mended = open_sets([f"semseg:{folders[1]}:train"], first.classes).fingerprint
    assert difference(first.fingerprint, mended).endswith("different content: the masks differ")
    renamed = open_sets([f"semseg:{folders[0]}:train"], [*first.classes[:-1], "ten"]).fingerprint
    assert difference(first.fingerprint, renamed).endswith("content: the labels differ")


def test_the_fingerprint_of_class_maps_drawn_from_objects(tmp_path: Path) -> None:
    def found(left: float) -> str:
        content = coco_content()
        content["annotations"][0]["segmentation"][0][0] = left
        write_coco(tmp_path, "train", content)
        return open_sets([f"coco:{tmp_path}:train"]).fingerprint.sha256

    assert found(4.0) == found(4.0) != found(4.5)


def test_a_test_set_that_numbers_its_classes_differently(
    make_semseg: Callable[..., Path], tmp_path: Path
) -> None:
    """Its scores would be of exchanged classes, without a word."""
    folder = make_semseg(tmp_path / "own")
    names, classes = [f"semseg:{folder}:val"], ("background", "cat", "dog")
    check_listed_classes(names, classes, "x.pth")  # nothing is listed
    (folder / "classes.txt").write_text("background\ndog\ncat\n")
    message = "classes.txt lists the classes background, dog, cat, but x.pth has background, cat"
    with pytest.raises(InputError, match=message):
        check_listed_classes(names, classes, "x.pth")
    check_listed_classes(names, ("0", "1", "2"), "x.pth")
    check_listed_classes(names, ("background", "dog", "cat"), "x.pth")
    check_listed_classes(["voc_2012_sem_seg_val", "coco:a:b"], classes, "x.pth")
