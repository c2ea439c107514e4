"""What happens to a key that matches nothing, and how often the keys of a file are sorted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pretrain.common.errors import InputError
from tests.transfer.checkpoints.builders import every_format, trained_state
from transfer.checkpoints import read, unmatched_keys
from transfer.checkpoints.read import read_weights
from transfer.checkpoints.unmatched_keys import SortedKeys, sort_keys


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    state = trained_state("tiny_resnet")
    return every_format(tmp_path_factory.mktemp("formats"), state, "tiny_resnet")


@pytest.mark.parametrize("name", ["mscn", "moco_v2", "detectron2"])
def test_keys_are_sorted_once(
    name: str, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    sorted_files = []

    def counting(found: unmatched_keys.Found, where: str) -> SortedKeys:
        sorted_files.append(where)
        return sort_keys(found, where)

    monkeypatch.setattr(unmatched_keys, "sort_keys", counting)
    monkeypatch.setattr(read, "sort_keys", counting)
    read_weights(str(files[name]))
    assert sorted_files == [str(files[name])]


def test_an_unexplained_key_makes_the_file_generic(files: dict[str, Path], tmp_path: Path) -> None:
    """The trunk is complete: it is read, and the warning counts the other keys."""
    path = _with_key(files["moco_v2"], tmp_path, "state_dict", "module.new_head.weight")
    weights = read_weights(str(path))
    assert weights.provenance["source"] == "generic"
    assert weights.sha256 == read_weights(str(files["moco_v2"])).sha256
    assert "module.new_head.` 1" in weights.warnings[0]


def test_an_unexplained_key_of_a_wanted_format_is_an_error(
    files: dict[str, Path], tmp_path: Path
) -> None:
    path = _with_key(files["moco_v2"], tmp_path, "state_dict", "module.encoder_q.layer9.weight")
    with pytest.raises(InputError, match="1 unexplained: module.encoder_q.layer9.weight"):
        read_weights(str(path), source="moco_v2")


def test_an_unexplained_key_of_our_own_file_is_an_error(
    files: dict[str, Path], tmp_path: Path
) -> None:
    path = _with_key(files["mscn"], tmp_path, "model", "trunk.layer9.weight")
    with pytest.raises(InputError, match="1 unexplained: trunk.layer9.weight"):
        read_weights(str(path))


def _with_key(file: Path, folder: Path, container: str, key: str) -> Path:
    content = torch.load(file, map_location="cpu", weights_only=False)
    content[container][key] = torch.zeros(2, 2)
    torch.save(content, folder / file.name)
    return folder / file.name
