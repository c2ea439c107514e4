"""Small files that TensorFlow and DeepMind's BYOL code wrote themselves: each value is read.

`data/model.ckpt-250228`, `sharded`, `sliced`: TensorFlow 2.21, `tf.compat.v1.train.Saver`.
`data/byol_dill032.pickle`: byol/utils/checkpointing.py, haiku of 2020-08, dill 0.3.2, numpy 1.21;
`byol_dill036.pickle`: dill 0.3.6, numpy 1.26. The .npz files have their values, random numbers.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from pretrain.common.errors import InputError
from transfer.checkpoints.formats.key_format import inside
from transfer.checkpoints.formats.other_frameworks import _view_byol
from transfer.checkpoints.readers.raw import open_file
from transfer.checkpoints.readers.tf_bundle import data_files, is_bundle

DATA = Path(__file__).with_name("data")
CHECKPOINT = DATA / "model.ckpt-250228.index"


@pytest.mark.parametrize(
    "given", ["model.ckpt-250228", CHECKPOINT.name, "model.ckpt-250228.data-00000-of-00001"]
)
def test_tensorflows_own_checkpoint(given: str) -> None:
    raw = open_file(DATA / given)
    expected = np.load(DATA / "model.ckpt-250228.npz")
    assert raw.kind == "tensorflow" and raw.path == CHECKPOINT
    numbers = {name for name in expected.files if expected[name].dtype.kind != "S"}
    assert set(raw.content) == numbers and len(numbers) == 39  # strings are left out
    for name in numbers:
        value = raw.content[name]
        assert tuple(value.shape) == expected[name].shape
        as_numpy = value.float() if value.dtype == torch.bfloat16 else value
        assert np.array_equal(as_numpy.numpy(), expected[name]), name


def test_tensors_in_two_data_files() -> None:
    assert len(data_files(DATA / "sharded.index")) == 2
    content = open_file(DATA / "sharded.index").content
    assert len(content) == 2 and all(torch.isfinite(v).all() for v in content.values())


def test_sliced_variables_are_refused_by_name() -> None:
    with pytest.raises(InputError, match="sliced.index.*is in slices"):
        open_file(DATA / "sliced.index")


def copied(folder: Path) -> Path:
    for file in DATA.glob("model.ckpt-250228.*"):
        shutil.copy(file, folder)
    return folder / CHECKPOINT.name


@pytest.mark.parametrize("place", range(0, 1446, 97))
def test_a_flipped_byte_of_the_index_is_found(place: int, tmp_path: Path) -> None:
    index = copied(tmp_path)
    data = bytearray(index.read_bytes())
    data[place] ^= 0x40
    index.write_bytes(bytes(data))
    if place >= len(data) - 48:  # the footer's handles; its padding holds nothing
        return
    with pytest.raises(InputError, match="not a readable TensorFlow index"):
        open_file(index)


@pytest.mark.parametrize("keep", [0.2, 0.5, 0.97])
def test_a_truncated_index_is_no_index(keep: float, tmp_path: Path) -> None:
    index = copied(tmp_path)
    data = index.read_bytes()
    index.write_bytes(data[: int(len(data) * keep)])
    assert not is_bundle(index)
    with pytest.raises(InputError, match="250228.index"):
        open_file(index)


def test_missing_and_short_data(tmp_path: Path) -> None:
    index = copied(tmp_path)
    data = tmp_path / "model.ckpt-250228.data-00000-of-00001"
    whole = data.read_bytes()
    data.write_bytes(whole[:-100])
    with pytest.raises(InputError, match="data-00000-of-00001 is truncated"):
        open_file(index)
    data.unlink()
    with pytest.raises(InputError, match="data-00000-of-... is not in the same folder"):
        open_file(index)


@pytest.mark.parametrize("name", ["byol_dill032.pickle", "byol_dill036.pickle"])
def test_byols_own_pickle(name: str) -> None:
    raw = open_file(DATA / name)
    state = raw.content["experiment_state"]
    expected = np.load(DATA / "byol.npz")
    for key in expected.files:
        part, module, leaf = key.split("|")
        value = torch.as_tensor(state[part][module][leaf])
        assert np.array_equal(value.numpy(), expected[key]), key
    trunk = inside(_view_byol(raw.content), ("trunk",))
    assert "res_net50/~/initial_conv/w" in trunk
    assert all(name.startswith("res_net50/") for name in trunk)
