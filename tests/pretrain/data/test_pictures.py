"""Images that a user gives: a folder, a name, files, PIL images."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pretrain.common.errors import InputError
from pretrain.data.pictures import open_pictures

DOCS = Path(__file__).parents[3] / "docs"


def test_images_by_name_or_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(DOCS)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(DOCS))
    by_folder, by_spec = open_pictures("images"), open_pictures("folder:images")
    assert len(by_folder) == len(by_spec) == len(open_pictures(Path("images"))) >= 1
    assert open_pictures(by_folder) is by_folder
    monkeypatch.chdir(tmp_path)
    assert len(open_pictures("images")) == len(by_spec), "found below the root, as folder:images"
    with pytest.raises(InputError, match="image folder .*/docs/nowhere is missing"):
        open_pictures("nowhere")


def test_a_list_of_files_and_pil_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    small, large = (rng.integers(0, 256, (h, 9, 3), dtype=np.uint8) for h in (5, 7))
    Image.fromarray(small).save(tmp_path / "a.png")
    grey = Image.fromarray(large[..., 0])
    found = open_pictures(
        [tmp_path / "a.png", Image.fromarray(large), grey, str(tmp_path / "a.png")]
    )
    assert [found.size(i) for i in range(4)] == [(9, 5), (9, 7), (9, 7), (9, 5)]
    assert found.labels.tolist() == [-1] * 4 and found.classes == []
    np.testing.assert_array_equal(found.read(0), small)
    np.testing.assert_array_equal(found.read(1), large)
    np.testing.assert_array_equal(found.read_pixels(2), large[..., :1].repeat(3, axis=2))
    assert [found.name(0), found.name(1)] == [str(tmp_path / "a.png"), "image 1"]
    paths, mixed = open_pictures([tmp_path / "a.png"]), found.subset([1, 2])
    assert paths.fingerprint.sha256 != mixed.fingerprint.sha256
    assert (
        mixed.fingerprint
        == open_pictures([grey, Image.fromarray(large), grey]).subset([1, 2]).fingerprint
    )


@pytest.mark.parametrize(
    "images, message",
    [
        ([], "the list of images is empty"),
        ([np.zeros((4, 4, 3), np.uint8)], "image 0 of the list is a ndarray; give PIL images or"),
    ],
)
def test_what_is_no_image_is_named(images: list, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        open_pictures(images)


def test_an_image_without_a_scale_is_refused() -> None:
    floats = Image.fromarray(np.zeros((4, 4), np.float32))
    with pytest.raises(OSError, match="image 0"):
        open_pictures([floats]).read(0)
