"""The root of data sets, and the remedy in a message about missing data."""

from __future__ import annotations

from pathlib import Path

import pytest

from pretrain.common.errors import InputError
from pretrain.data.datasets import open_images
from pretrain.data.root import VARIABLE, below_root, datasets_root, root_hint


def test_the_default_root_is_named_with_the_variable_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(VARIABLE, "")  # as if it were not set
    assert datasets_root() == Path("datasets")
    monkeypatch.delenv(VARIABLE)
    assert datasets_root() == Path("datasets") and below_root("pets") == Path("datasets/pets")
    assert below_root("~/pets") == Path.home() / "pets"
    hint = root_hint(Path("datasets/VOC2007/JPEGImages"))
    assert (
        f"in {tmp_path}/datasets: " in hint
        and f"or set the environment variable {VARIABLE}" in hint
    )


def test_a_root_that_is_set_is_to_be_corrected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    assert f"in {tmp_path}: " in root_hint(tmp_path) and "correct" in root_hint(tmp_path / "coco")
    with pytest.raises(InputError, match=f"{tmp_path}/photos is missing.*{VARIABLE}$"):
        open_images("folder:photos")


def test_an_absolute_name_outside_the_root_has_no_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "sets"))
    assert root_hint(tmp_path / "photos") == "" and root_hint(tmp_path / "sets2") == ""
    with pytest.raises(InputError, match="folder itself$"):
        open_images(f"folder:{tmp_path}/photos")


@pytest.mark.parametrize(
    "name, near",
    [
        ("folder:photoss", "photoss is missing (did you mean 'photos'?); expected"),
        ("folder:photos:tarin", "photos/tarin is missing (did you mean 'train'?); expected"),
        ("corrupted:photoss", "photoss is missing (did you mean 'photos'?); expected"),
        ("imagenet_r:test", "imagenet-r is missing (did you mean 'imagenet-rr'?); expected"),
    ],
)
def test_near_names_of_every_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, near: str
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    for folder in ("photos/train", "imagenet-rr"):
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(InputError) as caught:
        open_images(name)
    assert near in str(caught.value)
