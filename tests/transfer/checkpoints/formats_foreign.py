"""Files of other frameworks, written as their projects write them, with the names of a ResNet-50.

This module also has a writer of TensorFlow's bundles, made from the description of the format.
"""

from __future__ import annotations

import pickle
import struct
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

State = Mapping[str, Tensor]


def modules_in_order() -> list[tuple[str, str]]:
    """(convolution, norm) in torchvision's names, shortcuts before a block's own."""
    out = [("conv1", "bn1")]
    for stage, blocks in enumerate((3, 4, 6, 3), start=1):
        for block in range(blocks):
            head = f"layer{stage}.{block}."
            out += [(f"{head}downsample.0", f"{head}downsample.1")] if block == 0 else []
            out += [(f"{head}conv{number}", f"{head}bn{number}") for number in (1, 2, 3)]
    return out


def hwio(kernel: Tensor) -> Tensor:
    return kernel.permute(2, 3, 1, 0).contiguous()


def simclr(state: State) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {"global_step": torch.tensor(250228)}
    for number, (conv_name, norm_name) in enumerate(modules_in_order()):
        end = f"_{number}" if number else ""
        kernel = hwio(state[f"{conv_name}.weight"])
        out[f"base_model/conv2d{end}/kernel"] = kernel
        out[f"base_model/conv2d{end}/kernel/Momentum"] = torch.zeros(1)
        for theirs, ours in TF_NORM.items():
            name = f"base_model/batch_normalization{end}/{theirs}"
            out[name] = state[f"{norm_name}.{ours}"]
    out["head_contrastive/nl_0/dense/kernel"] = torch.zeros(4, 4)
    out["head_supervised/linear_layer/dense/bias"] = torch.zeros(10)
    return out


TF_NORM = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def simclr_tf2(state: State) -> dict[str, Tensor]:
    end, out = "/.ATTRIBUTES/VARIABLE_VALUE", {}
    for conv_name, norm_name in modules_in_order():
        if conv_name == "conv1":
            kernel, place = "initial_conv_relu_max_pool/0", "initial_conv_relu_max_pool/2"
        else:
            stage, block, part = conv_name.removeprefix("layer").split(".", 2)
            head = f"block_groups/{int(stage) - 1}/layers/{block}"
            at = {"conv1": 0, "conv2": 3, "conv3": 6}.get(part, 0)
            kind = "projection_layers" if part == "downsample.0" else "conv_relu_dropblock_layers"
            kernel, place = f"{head}/{kind}/{at}", f"{head}/{kind}/{at + 1}"
        out[f"model/resnet_model/{kernel}/conv2d/kernel{end}"] = hwio(state[f"{conv_name}.weight"])
        for theirs, ours in TF_NORM.items():
            out[f"model/resnet_model/{place}/bn/{theirs}{end}"] = state[f"{norm_name}.{ours}"]
    out[f"model/_projection_head/linear_layers/0/dense/kernel{end}"] = torch.zeros(4, 4)
    out[f"model/supervised_head/linear_layer/dense/bias{end}"] = torch.zeros(4)
    out[f"global_step{end}"] = torch.tensor(7)
    return out


def byol_modules(state: State) -> tuple[dict, dict]:
    """haiku's two-level mappings of parameters and of state."""
    params: dict[str, dict] = {"projector/linear": {"w": np.zeros((4, 4), np.float32)}}
    averages: dict[str, dict] = {"projector/batch_norm/~/mean_ema": {"counter": np.int32(3)}}
    for conv_name, norm_name in modules_in_order():
        if conv_name == "conv1":
            kernel, place = "initial_conv", "initial_batchnorm"
        else:
            stage, block, part = conv_name.removeprefix("layer").split(".", 2)
            head = f"block_group_{int(stage) - 1}/~/block_{block}/~/"
            number = {"conv1": "0", "conv2": "1", "conv3": "2"}.get(part)
            kernel = f"{head}{'shortcut_conv' if number is None else f'conv_{number}'}"
            place = f"{head}{'shortcut_batchnorm' if number is None else f'batchnorm_{number}'}"
        root = "res_net50/~/"
        params[root + kernel] = {"w": hwio(state[f"{conv_name}.weight"]).numpy()}
        values = {
            k: state[f"{norm_name}.{k}"].numpy().reshape(1, 1, 1, -1) for k in TF_NORM.values()
        }
        params[root + place] = {"scale": values["weight"], "offset": values["bias"]}
        for kind, name in (("mean", "running_mean"), ("var", "running_var")):
            rest = {"hidden": values[name] / 2, "counter": np.int32(3)}
            averages[f"{root}{place}/~/{kind}_ema"] = {"average": values[name], **rest}
    return params, averages


class FlatMapping(dict):
    """Pickles as haiku's does: a class of haiku's called with a dict."""

    def __reduce__(self) -> tuple:
        return FlatMapping, (dict(self),)


def write_byol(path: Path, state: State) -> Path:
    params, averages = map(FlatMapping, byol_modules(state))
    fields = {"online_params": params, "target_params": FlatMapping(), "online_state": averages}
    content = {"experiment_state": fields, "step": 1000, "rng": np.zeros(2, np.uint32)}
    places = ("haiku", "haiku._src", "haiku._src.data_structures")
    modules = {place: types.ModuleType(place) for place in places}
    modules[places[-1]].FlatMapping = FlatMapping
    name, FlatMapping.__module__ = FlatMapping.__module__, places[-1]
    sys.modules.update(modules)
    try:
        path.write_bytes(pickle.dumps(content, protocol=2))
    finally:
        FlatMapping.__module__ = name
        for place in places:
            del sys.modules[place]
    return path


def caffe2(state: State, folded: bool) -> dict[str, np.ndarray]:
    out = {"fc1000_w": np.zeros((1000, 2048), np.float32), "fc1000_b": np.zeros(1000, np.float32)}
    out["conv1_b"] = np.zeros(64, np.float32)
    leaves = {"gamma": "weight", "beta": "bias"}
    leaves |= {name: name for name in ("running_mean", "running_var")}
    leaves = {"s": "weight", "b": "bias"} if folded else leaves
    for conv_name, norm_name in modules_in_order():
        if conv_name == "conv1":
            blob, place = "conv1", "res_conv1_bn"
        else:
            stage, block, part = conv_name.removeprefix("layer").split(".", 2)
            branch = {"conv1": "2a", "conv2": "2b", "conv3": "2c"}.get(part, "1")
            blob = f"res{int(stage) + 1}_{block}_branch{branch}"
            place = f"{blob}_bn"
        out[f"{blob}_w"] = state[f"{conv_name}.weight"].numpy()
        out |= {f"{place}_{k}": state[f"{norm_name}.{v}"].numpy() for k, v in leaves.items()}
    return out


def separius(state: State) -> dict[str, Any]:
    zero = torch.zeros(())
    resnet = {"fc.weight": zero.expand(1000, 2048), "fc.bias": zero.expand(1000)}
    for conv_name, norm_name in modules_in_order():
        if conv_name == "conv1":
            kernel, place = "net.0.0", "net.0.1.0"
        else:
            stage, block, part = conv_name.removeprefix("layer").split(".", 2)
            head = f"net.{stage}.blocks.{block}"
            at = {"conv1": 0, "conv2": 2, "conv3": 4}.get(part)
            kernel = f"{head}.projection.shortcut" if at is None else f"{head}.net.{at}"
            place = f"{head}.projection.bn.0" if at is None else f"{head}.net.{at + 1}.0"
        resnet[f"{kernel}.weight"] = state[f"{conv_name}.weight"]
        leaves = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        resnet |= {
            f"{place}.{leaf}": state[f"{norm_name}.{leaf}"]
            for leaf in leaves
            if f"{norm_name}.{leaf}" in state
        }
    return {"resnet": resnet, "head": {"layers.0.weight": zero.expand(2048, 2048)}}


# ---- a writer of TensorFlow's bundles, from the format's description


def write_bundle(
    prefix: Path, tensors: State, checksum: Callable[[bytes], int], shared: bytes = b""
) -> Path:
    """PREFIX.index and one data file; `checksum` is the masked CRC-32C of LevelDB.

    Args:
        shared: becomes the data file, and every tensor begins at its first byte, so that a large
            network has a small file; b"": each tensor has its own values.
    """
    types_ = {torch.float32: 1, torch.int64: 9}
    entries, data = [(b"", b"\x08\x01\x1a\x02\x08\x01")], bytearray()
    for name in sorted(tensors):
        value = tensors[name].contiguous().numpy()
        raw = value.tobytes()
        dims = b"".join(b"\x12" + blob(b"\x08" + varint(side)) for side in value.shape)
        proto = b"\x08" + varint(types_[tensors[name].dtype]) + b"\x12" + blob(dims)
        proto += b"\x20" + varint(0 if shared else len(data)) + b"\x28" + varint(len(raw))
        entries.append((name.encode(), proto))
        data += b"" if shared else raw
    prefix.with_name(f"{prefix.name}.data-00000-of-00001").write_bytes(shared or data)
    table, handles = b"", []
    for block in (entries, [], [(b"~", None)]):
        block = [(key, handles[0] if value is None else value) for key, value in block]
        body, last = b"", b""
        for key, value in block:
            shared = next((i for i, (a, b) in enumerate(zip(last, key)) if a != b), 0)
            own = key[shared:]
            body += varint(shared) + varint(len(own)) + varint(len(value)) + own + value
            last = key
        body += struct.pack("<II", 0, 1)
        handles.append(varint(len(table)) + varint(len(body)))
        table += body + b"\x00" + struct.pack("<I", checksum(body + b"\x00"))
    footer = (handles[1] + handles[2]).ljust(40, b"\x00")
    index = prefix.with_name(f"{prefix.name}.index")
    index.write_bytes(table + footer + struct.pack("<Q", 0xDB4775248B80FB57))
    return index


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def blob(data: bytes) -> bytes:
    return varint(len(data)) + data


def detectron2_names(state: State) -> dict[str, np.ndarray]:
    out = {}
    for name, tensor in state.items():
        name = name if name.startswith("layer") else f"stem.{name}"
        for stage in (4, 3, 2, 1):
            name = name.replace(f"layer{stage}.", f"res{stage + 1}.")
        for number in (1, 2, 3):
            name = name.replace(f"bn{number}.", f"conv{number}.norm.")
        name = name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
        out[name] = tensor.numpy()
    return {**out, "stem.fc.weight": np.zeros((10, 4), np.float32)}
