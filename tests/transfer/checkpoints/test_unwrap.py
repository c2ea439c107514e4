"""Files whose names contain the prefixes of wrappers are read exactly as the plain file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pretrain.common.errors import InputError
from tests.transfer.checkpoints import formats
from tests.transfer.checkpoints.builders import trained_state
from tests.transfer.checkpoints.test_formats import content_of, source_of
from transfer.checkpoints.formats.find_format import find_format
from transfer.checkpoints.formats.unwrap import unwrap
from transfer.checkpoints.read import read_weights
from transfer.checkpoints.readers.raw import RawFile
from transfer.checkpoints.weights import Weights

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def plain() -> State:
    return trained_state("tiny_resnet")


def put(before: str) -> Callable[[str], str]:
    return lambda name: before + name


WRAPPED = {
    "compile": put("_orig_mod."),
    "compile over DDP": put("_orig_mod.module."),
    "DDP over compile": put("module._orig_mod."),
    "thrice": put("module.module.module."),
    "FSDP": lambda n: "_fsdp_wrapped_module."
    + n.replace("layer2.", "layer2._fsdp_wrapped_module."),
    "old FSDP": put("_fsdp_wrapped_module._fpw_module."),
    "checkpointed": lambda n: n.replace("layer1.0.", "layer1.0._checkpoint_wrapped_module."),
    "some compiled": lambda n: n.replace("layer3.", "layer3._orig_mod.module."),
    "Fabric": put("_forward_module.module."),
    "Opacus": put("_module."),
}


def read(content: object, folder: Path) -> Weights:
    path = folder / "file.pth"
    torch.save(content, path)
    return read_weights(str(path))


@pytest.mark.parametrize("name", WRAPPED)
def test_a_wrapped_file_is_the_plain_one(name: str, plain: State, tmp_path: Path) -> None:
    weights = read({WRAPPED[name](k): v for k, v in plain.items()}, tmp_path)
    assert set(weights.state) == set(plain)
    assert all(torch.equal(weights.state[key], plain[key]) for key in plain)
    assert len(weights.account.notes) == 1 and "wrappers" in weights.account.notes[0]


@pytest.mark.parametrize("name", ["compile", "compile over DDP", "DDP over compile", "thrice"])
def test_a_wrapped_file_keeps_its_format(name: str, plain: State, tmp_path: Path) -> None:
    content = formats.CASES["moco_v2"].make(plain)
    inner = {k.removeprefix("module."): v for k, v in content["state_dict"].items()}
    content["state_dict"] = {WRAPPED[name](k): v for k, v in inner.items()}
    weights = read(content, tmp_path)
    assert weights.provenance["source"] == "moco_v2" and weights.provenance["method"] == "moco_v2"
    assert all(torch.equal(weights.state[key], plain[key]) for key in plain)
    queues = weights.account.dropped["queue"]
    assert {key.rpartition(".")[2] for key in queues} == {"queue", "queue_ptr"}


@pytest.mark.parametrize("name", [n for n, c in formats.CASES.items() if c.kind == "torch"])
def test_each_format_is_found_through_compile_and_ddp(name: str) -> None:
    """Also for formats that do not know the prefix `module.`."""
    case = formats.CASES[name]
    raw = content_of(case)
    before = find_format(raw, source_of(case))

    def wrap(value: object) -> object:
        if not isinstance(value, dict):
            return value
        tensors = any(isinstance(v, Tensor) for v in value.values())
        return {f"_orig_mod.module.{k}" if tensors else k: wrap(v) for k, v in value.items()}

    if any(isinstance(v, Tensor) for v in raw.content.values()) and "epoch" in raw.content:
        pytest.skip("its trunk is next to its settings")
    after = find_format(RawFile(raw.path, raw.kind, wrap(raw.content), None), source_of(case))
    assert after.format.name == before.format.name
    wanted = {before.canonical(n) for n in before.tensors if not before.format.dropped_by(n)}
    assert wanted <= {after.canonical(n) for n in after.tensors if not after.format.dropped_by(n)}


def test_two_names_that_become_one_are_refused(plain: State, tmp_path: Path) -> None:
    content = {**plain, "_orig_mod.conv1.weight": plain["conv1.weight"] + 1}
    with pytest.raises(InputError, match=r"conv1\.weight and _orig_mod\.conv1\.weight are both"):
        read(content, tmp_path)


@pytest.mark.parametrize(
    "name", ["_flat_param", "_fsdp_wrapped_module._flat_param", "flat_param_0"]
)
def test_flat_parameters_are_refused_with_the_remedy(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="flat parameters.*full_state_dict=True"):
        read({"model": {name: torch.zeros(100)}}, tmp_path)


def test_a_container_of_a_wrapper_s_name_stays() -> None:
    content = {"module": {"conv1.weight": torch.zeros(1)}, "module_list.0.weight": torch.zeros(1)}
    assert list(unwrap(content, keep_first=False).content) == list(content)
