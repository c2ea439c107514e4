"""What people save with a plain state_dict, or instead of one: it is read, or named."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.testing._internal.two_tensor import TwoTensor
from torchvision.tv_tensors import Image

from pretrain.common.errors import InputError
from tests.faults.fuzzing import in_child
from tests.transfer.checkpoints.builders import trained_state
from tests.transfer.checkpoints.formats import linear, mlp, put
from transfer.checkpoints.convert import check
from transfer.checkpoints.names.layouts import layout_of
from transfer.checkpoints.read import read_weights
from transfer.checkpoints.readers.raw import by_name
from transfer.checkpoints.weights import Weights

State = dict[str, Tensor]
OPTIMIZER = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"params": [0]}]}


@pytest.fixture(scope="module")
def state() -> State:
    return trained_state("tiny_resnet")


def read(content: Any, folder: Path, **options: Any) -> Weights:
    torch.save(content, folder / "file.pth")
    return read_weights(str(folder / "file.pth"), **options)


def check_equal(weights: Weights, state: State) -> None:
    assert set(weights.state) == set(state)
    assert all(torch.equal(weights.state[key], state[key]) for key in state)


def test_a_convnext_with_a_classifier_beside_its_norm(builders: ModuleType, tmp_path: Path) -> None:
    """timm's `head` and torchvision's `classifier` have the norm after pooling, too."""
    state = builders.trained_state("convnext_atto")
    theirs = layout_of("torchvision_convnext")
    torchvision = {theirs.forth(name): value for name, value in state.items()}
    for trunk, head in ((state, "head.fc"), (torchvision, "classifier.2")):
        for classifier in (linear(head, 10, 320), mlp(head, (320, 8, 4))):
            content = {"state_dict": put("model.", {**trunk, **classifier})}
            weights = read(content, tmp_path)
            check_equal(weights, state)
            dropped = weights.account.dropped["outside the trunk"]
            assert set(dropped) == {f"state_dict.model.{name}" for name in classifier}


@pytest.mark.parametrize(
    "wrap, place",
    [
        (lambda s: [s, OPTIMIZER, 3], "0."),
        (lambda s: (3, {"net": s}), "1.net."),
        (lambda s: {"models": [s], "optimizers": [OPTIMIZER]}, "models.0."),
        (lambda s: {"models": {7: s}, "optimizer": OPTIMIZER}, "models.7."),
        (lambda s: {0: s, 1: "a"}, "0."),
    ],
)
def test_a_network_in_a_list_or_below_a_number(
    wrap: Callable, place: str, state: State, tmp_path: Path
) -> None:
    weights = read(wrap(state), tmp_path)
    check_equal(weights, state)
    assert f"below `{place}`" in weights.warnings[0] and not weights.account.dropped


def test_modules_in_a_list_are_read_under_trust(tmp_path: Path) -> None:
    from torchvision.models import resnet18

    network = resnet18()
    weights = read([network, 1], tmp_path, trust=True)
    wanted = {k: v for k, v in network.state_dict().items() if not k.startswith("fc.")}
    check_equal(weights, wanted)


@pytest.mark.parametrize("kind", [">f4", "<f4", ">f8", np.longdouble])
def test_arrays_of_every_byte_order_and_precision(
    kind: str | type, state: State, tmp_path: Path
) -> None:
    arrays = {
        name: value.numpy().astype(kind) if value.is_floating_point() else value.numpy()
        for name, value in state.items()
    }
    for content in (arrays, {"net": arrays}, [arrays]):
        check_equal(read(content, tmp_path), state)
    (tmp_path / "file.pkl").write_bytes(pickle.dumps([arrays]))
    check_equal(read_weights(str(tmp_path / "file.pkl")), state)


def test_a_sparse_or_an_empty_tensor_is_named(state: State, tmp_path: Path) -> None:
    key = "layer2.0.conv1.weight"
    for value, message in (
        (state[key].to_sparse(), f"{key} is a sparse tensor; save its to_dense"),
        (torch.empty_like(state[key], device="meta"), f"{key} has no values .device meta"),
        (state[key].to(torch.int8), "torch.int8, not floating point; give the network in"),
    ):
        for content in ({**state, key: value}, {"net": {**state, key: value}}):
            with pytest.raises(InputError, match=message):
                read(content, tmp_path)
        copies = {"a": {**state, key: value}, "b": {**state, key: value}, "n": 1}
        # Values that are not there cannot be compared.
        equal = value.layout == torch.strided and not value.is_meta
        with pytest.raises(InputError, match=message if equal else "2 different networks"):
            read(copies, tmp_path)


MADE = {
    "lora": (
        {"layer1.0.conv1.lora_A.default.weight": torch.zeros(2, 2)},
        "LoRA adapters .*merge_and_unload",
    ),
    "pruned": (
        {"layer1.0.conv1.weight_orig": torch.zeros(2), "layer1.0.conv1.weight_mask": torch.ones(2)},
        r"pruned .*prune\.remove",
    ),
    "weight norm": ({"layer1.0.conv1.weight_g": torch.zeros(2)}, "remove_weight_norm"),
    "quantised": ({"layer1.0.conv1.SCB": torch.zeros(2)}, "quantised .*in floating point"),
}


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("part", ["whole", "one lost", "all lost"])
def test_what_weights_are_made_from_is_named(
    name: str, part: str, state: State, tmp_path: Path
) -> None:
    """By what it is, however many of the network's own tensors it replaces."""
    extra, message = MADE[name]
    lost = {"whole": (), "one lost": ("layer1.0.conv1.weight",)}.get(
        part, [key for key, value in state.items() if value.dim() > 1]
    )
    content = {key: value for key, value in state.items() if key not in lost} | extra
    for file in (content, {"net": content}, {"state_dict": put("encoder.", content)}):
        with pytest.raises(InputError, match=message):
            read(file, tmp_path)


@pytest.mark.parametrize(
    "content, message",
    [
        ({}, r"no tensors with names \(its keys: none\)"),
        ({"state_dict": {}, "epoch": 1}, r"no tensors with names \(its keys: state_dict, epoch\)"),
        ({"optimizer": OPTIMIZER, "epoch": 1}, "only the state of an optimizer, no network"),
        (OPTIMIZER, "only the state of an optimizer, no network"),
        ([torch.ones(3), torch.ones(2)], r"has a list, .*torch\.save\(model\.state_dict\(\)"),
    ],
)
def test_a_file_without_a_network_says_so(content: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        read(content, tmp_path)


def test_a_teacher_of_other_image_sizes_than_its_student(
    builders: ModuleType, tmp_path: Path
) -> None:
    teacher = builders.trained_state("vit_tiny_patch16_224")
    student = {**teacher, "pos_embed": teacher["pos_embed"][:, :37].clone()}
    weights = read({"state_dict": put("student.", student) | put("teacher.", teacher)}, tmp_path)
    check_equal(weights, teacher)
    assert "not read, as copies: `state_dict.student.` (different)" in weights.account.notes[-1]


def test_a_segmenter_is_named_and_not_its_decoder(state: State, tmp_path: Path) -> None:
    """The decoder's `conv1.0` is not the network's stem."""
    decoder = {
        "decoder.conv1.0.weight": torch.zeros(2, 2, 3, 3),
        "aux_classifier.0.weight": torch.zeros(2),
    }
    with pytest.raises(InputError, match="a detector or a segmenter .*--prefix backbone"):
        read(put("backbone.", state) | decoder, tmp_path)
    decoder.pop("aux_classifier.0.weight")
    check_equal(read(put("backbone.", state) | decoder, tmp_path), state)


def test_the_content_tells_and_not_the_suffix(state: State, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    torch.save(state, path)
    check_equal(read_weights(str(path)), state)
    save_file(state, path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(InputError, match="is truncated: .*copy or download it again"):
        read_weights(str(path))
    path.write_bytes(whole + bytes(7))
    with pytest.raises(InputError, match="has 7 bytes more than its header says"):
        read_weights(str(path))


def test_distributed_tensors_are_read_if_they_are_complete(state: State, tmp_path: Path) -> None:
    """As FSDP2 saves them; a second process, which does not exist, has the other halves."""
    from torch.distributed.tensor import DTensor, Replicate, Shard, init_device_mesh
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    try:
        mesh = init_device_mesh("cpu", (2,))
        for place, name in ((Replicate(), "whole.pth"), (Shard(0), "half.pth")):
            content = {
                key: DTensor.from_local(value, mesh, [place], run_check=False)
                for key, value in state.items()
                if value.dim()
            }
            torch.save({"model": state | content}, tmp_path / name)
    finally:
        dist.destroy_process_group()
    for trust in (False, True):
        weights = read_weights(str(tmp_path / "whole.pth"), trust=trust)
        check_equal(weights, state)
        assert {type(tensor) for tensor in weights.state.values()} == {torch.Tensor}
        with pytest.raises(InputError, match="holds a DTensor .*one process's part.*full_state"):
            read_weights(str(tmp_path / "half.pth"), trust=trust)


def test_tensors_of_a_class_of_their_own(state: State, tmp_path: Path) -> None:
    own = {key: Image(value) if value.dim() == 4 else value for key, value in state.items()}
    torch.save(own, tmp_path / "x.pth")
    weights = read_weights(str(tmp_path / "x.pth"), trust=True)
    check_equal(weights, state)
    assert {type(tensor) for tensor in weights.state.values()} == {torch.Tensor}


def test_a_tensor_whose_values_a_library_computes_is_refused() -> None:
    two = TwoTensor(torch.zeros(3), torch.ones(3))  # as a quantised tensor holds its scales
    with pytest.raises(InputError, match="holds a TwoTensor, whose values a library computes"):
        by_name({"model": {"conv1.weight": two}})


def test_a_network_of_zeros_is_refused(state: State, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="all weights are 0"):
        read({key: torch.zeros_like(value) for key, value in state.items()}, tmp_path)


def test_a_name_with_a_line_break_is_outside_the_trunk(state: State, tmp_path: Path) -> None:
    weights = read({"net": state | {"a\nb\x1b[31m": torch.zeros(3)}}, tmp_path)
    check_equal(weights, state)
    assert weights.account.dropped == {"outside the trunk": ("net.a\nb\x1b[31m",)}
    report = str(check(str(tmp_path / "file.pth"), [".pth"]))
    assert r"(`net.a\nb\x1b[31m` 1)" in report and "\x1b" not in report


def test_spectral_normalisation_is_not_called_pruning(state: State, tmp_path: Path) -> None:
    content = dict(state) | {"conv1.weight_orig": state["conv1.weight"]}
    content["conv1.weight_u"] = torch.zeros(len(content.pop("conv1.weight")))
    with pytest.raises(InputError, match="with spectral normalisation .*remove_spectral_norm"):
        read(content, tmp_path)


def test_one_of_several_files_of_a_model_is_named_as_such(state: State, tmp_path: Path) -> None:
    halves = [dict(list(state.items())[:20]), state]
    for of, part in zip((2, 1), halves):
        save_file(part, tmp_path / f"model-00001-of-{of:05}.safetensors")
    with pytest.raises(InputError, match="is one of 2 files of a model; save it as one"):
        read_weights(str(tmp_path / "model-00001-of-00002.safetensors"))
    check_equal(read_weights(str(tmp_path / "model-00001-of-00001.safetensors")), state)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [4, 5])
def test_a_newer_pickle_protocol_is_named_and_read_with_trust(
    protocol: int, zipped: bool, state: State, tmp_path: Path
) -> None:
    path = str(tmp_path / "x.pth")
    torch.save(state, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError) as caught:
        read_weights(path)
    wanted = "x.pth was saved with pickle_protocol=4 or newer, which torch's safe loader does not"
    assert wanted in str(caught.value) and "could run code" not in str(caught.value)
    check_equal(read_weights(path, trust=True), state)


def test_parameters_are_as_good_as_tensors(state: State, tmp_path: Path) -> None:
    floats = {k: nn.Parameter(v) if v.is_floating_point() else v for k, v in state.items()}
    check_equal(read({"net": floats}, tmp_path), state)


def test_an_adapter_in_a_transformers_vit_is_named_as_such(tmp_path: Path) -> None:
    name = "base_model.model.encoder.layer.0.attention.attention.query"
    content = {
        "base_model.model.embeddings.cls_token": torch.zeros(1, 1, 4),
        f"{name}.base_layer.weight": torch.zeros(4, 4),
        f"{name}.lora_A.default.weight": torch.zeros(2, 4),
    }
    with pytest.raises(InputError, match="LoRA adapters .*merge_and_unload"):
        read({**content, "embeddings.cls_token": torch.zeros(1, 1, 4)}, tmp_path)


def test_of_equal_copies_of_one_kind_the_first_is_taken(state: State, tmp_path: Path) -> None:
    names = [f"net_{letter}." for letter in "dcbae"]
    content = {key: value for name in names for key, value in put(name, state).items()}
    note = read(content, tmp_path).account.notes[-1]
    left = ", ".join(f"`{name}` (equal)" for name in names[1:])
    assert note == f"read: `{names[0]}`; not read, as copies: {left}"


@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
@pytest.mark.parametrize("name", ["conv1.weight", "optimizer_part"])
def test_nested_tensors_are_refused(
    name: str, layout: torch.layout, state: State, tmp_path: Path
) -> None:
    """They have no shape, so everything that compares shapes would end in torch's own error."""
    nested = torch.nested.nested_tensor([torch.ones(3, 2), torch.ones(1, 2)], layout=layout)
    with pytest.raises(InputError, match=r"file.pth.*(nested tensor|nested_tensor|njt)"):
        read({"model": {**state, name: nested}}, tmp_path)


@pytest.mark.parametrize("key", [3, None, ("a", 1), b"ab"])
def test_a_key_that_is_not_a_name(key: object, state: State, tmp_path: Path) -> None:
    kind = type(key).__name__
    with pytest.raises(InputError, match=f"the key .* is a {kind}, not the name of a tensor"):
        read({**state, key: torch.ones(2)}, tmp_path)


def test_a_tensor_that_nothing_reads_costs_nothing(state: State, tmp_path: Path) -> None:
    """It may state any size: an expanded tensor has one number in the file, and is not unfolded."""
    huge = torch.zeros(1).expand(200_000, 200_000)
    torch.save({**state, "optimizer_part": huge, "fc.weight": huge}, tmp_path / "file.pth")

    def work() -> dict[str, Any]:
        weights = read_weights(tmp_path / "file.pth")
        return {"keys": sorted(weights.state), "sha256": weights.sha256}

    answer = in_child(work, memory=1 << 30)
    assert answer == {"keys": sorted(state), "sha256": read(state, tmp_path).sha256}
