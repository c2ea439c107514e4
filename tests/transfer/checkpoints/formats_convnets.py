"""Contents of files with ConvNets: small SimCLR projects, toolboxes, transformers, FAIR.

Each function takes a canonical state and returns what the project stores.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

State = Mapping[str, Tensor]


def put(prefix: str, state: State) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def other(prefix: str, state: State) -> dict[str, Tensor]:
    """The same names and shapes with other values: a student's or a teacher's copy."""
    return {f"{prefix}{k}": torch.ones((), dtype=v.dtype).expand(v.shape) for k, v in state.items()}


def mlp(name: str, places: tuple[int, ...], bias: bool = True) -> dict[str, Tensor]:
    leaves = ("weight", "bias") if bias else ("weight",)
    return {f"{name}.{place}.{leaf}": torch.zeros(8) for place in places for leaf in leaves}


def lightning(state: State, **more: Any) -> dict[str, Any]:
    top = {"epoch": 99, "global_step": 1000, "pytorch-lightning_version": "2.4.0"}
    return {**top, "state_dict": dict(state), "loops": {}, "callbacks": {}, **more}


# ---- ResNets


def hf_resnet(state: State) -> dict[str, Tensor]:
    """transformers' names, by substitution."""
    out = {}
    for name, tensor in state.items():
        name = re.sub(r"^conv1\.", "embedder.embedder.convolution.", name)
        name = re.sub(r"^bn1\.", "embedder.embedder.normalization.", name)
        name = re.sub(
            r"^layer(\d)\.(\d+)\.",
            lambda m: f"encoder.stages.{int(m[1]) - 1}.layers.{m[2]}.",
            name,
        )
        name = name.replace("downsample.0", "shortcut.convolution")
        name = name.replace("downsample.1", "shortcut.normalization")
        for number in (1, 2, 3):
            name = name.replace(f".conv{number}.", f".layer.{number - 1}.convolution.")
            name = name.replace(f".bn{number}.", f".layer.{number - 1}.normalization.")
        out[name] = tensor
    return out


def sthalles(state: State) -> dict[str, Any]:
    content = put("backbone.", state) | mlp("backbone.fc", (0, 2))
    return {"epoch": 200, "arch": "tiny_resnet", "state_dict": content, "optimizer": {"state": {}}}


def spijkervet(state: State) -> dict[str, Tensor]:
    return put("encoder.", state) | mlp("projector", (0, 2), bias=False)


def supcontrast(state: State, wrapper: str = "module.") -> dict[str, Any]:
    options = argparse.Namespace(epochs=1000, model="resnet18", dataset="cifar100", method="SupCon")
    content = put(f"encoder.{wrapper}", state) | mlp("head", (0, 2))
    return {"opt": options, "epoch": 1000, "optimizer": {}, "model": content}


def bolts_simclr(state: State) -> dict[str, Any]:
    heads = mlp("projection.model", (0, 1)) | mlp("projection.model", (3,), bias=False)
    settings = {"dataset": "stl10", "maxpool1": True}
    return lightning(put("encoder.", state) | heads, hyper_parameters=settings)


def stable_pretraining(state: State, trunk: str = "backbone.") -> dict[str, Any]:
    content = put(trunk, state) | mlp("projector", (0, 1, 3))
    content |= {"simclr_loss.temperature": torch.zeros(())}
    content |= {"callbacks_modules.linear_probe.weight": torch.zeros(10, 8)}
    content |= {"callbacks_metrics.linear_probe._val.top1.tp": torch.zeros(10)}
    return lightning(content)


def stable_pretraining_twice(state: State, taken: str, left: str) -> dict[str, Any]:
    content = put(f"backbone.{taken}.", state) | other(f"backbone.{left}.", state)
    for name in ("base_ema_coefficient", "final_ema_coefficient", "ema_coefficient"):
        content[f"backbone.{name}"] = torch.ones(())
    content |= mlp("projector.student", (0,)) | mlp("projector.teacher", (0,))
    return lightning(content | mlp("predictor", (0,)))


def lightly_train(state: State, copies: tuple[str, ...], part: str) -> dict[str, Any]:
    """The first copy holds the state, a second other values."""
    content: dict[str, Tensor] = {}
    for place, copy in enumerate(copies):
        prefix = f"{copy}embedding_model.wrapped_model.{part}"
        content |= other(prefix, state) if place else put(prefix, state)
        content |= mlp(f"{copy}projection_head.layers", (0, 1))
    content["criterion.center.center"] = torch.zeros(1, 8)
    stated = {"mean": (0.4, 0.5, 0.6), "std": (0.1, 0.2, 0.3)}
    return lightning(content, lightly_train={"version": "0.9", "normalize_args": stated})


# ---- ConvNeXts: the other spellings of canonical (timm's) names, by substitution


def fair(state: State, **parts: str) -> dict[str, Tensor]:
    """FAIR's names and shapes: linear layers, response norms of (1, 1, 1, D)."""
    words = {"conv_dw": "dwconv", "mlp.fc": "pwconv", "head.norm.": "norm.", **parts}
    out = {}
    for name, tensor in state.items():
        name = name.replace("stem.", "downsample_layers.0.")
        name = re.sub(r"stages\.(\d)\.downsample\.", r"downsample_layers.\1.", name)
        name = name.replace(".blocks.", ".")
        if ".mlp.grn." in name:
            tensor = tensor.reshape(1, 1, 1, -1)
            name = name.replace("mlp.grn.weight", "grn.gamma").replace("mlp.grn.bias", "grn.beta")
        if ".mlp.fc" in name and tensor.dim() == 4:
            tensor = tensor[:, :, 0, 0]
        for word, own in words.items():
            name = name.replace(word, own)
        out[name] = tensor
    return out


def fcmae(state: State) -> dict[str, Any]:
    """Sparse layers: kernels by place, the first column's places first; no last norm."""
    out: dict[str, Tensor] = {}
    for name, tensor in fair(state).items():
        module, _, leaf = name.rpartition(".")
        last = module.rpartition(".")[2]
        down = module.startswith("downsample_layers.") and module[18] != "0"
        if module == "norm":
            continue
        if leaf == "weight" and (last == "dwconv" or down and last == "1"):
            places = [
                tensor[:, :, y, x].T
                for x in range(tensor.shape[3])
                for y in range(len(tensor[0, 0]))
            ]
            kernel = torch.stack(places)
            out[f"{module}.kernel"] = kernel[:, 0] if last == "dwconv" else kernel
        elif leaf == "bias" and (last == "dwconv" or down and last == "1"):
            out[name] = tensor[None]
        elif last == "norm" or down and last == "0":
            out[f"{module}.ln.{leaf}"] = tensor
        elif last.startswith("pwconv"):
            out[f"{module}.linear.{leaf}"] = tensor
        else:
            out[name] = tensor.reshape(1, -1) if ".grn." in name else tensor
    content = put("encoder.", out) | {"mask_token": torch.zeros(1, 512, 1, 1)}
    content |= {"proj.weight": torch.zeros(8), "pred.weight": torch.zeros(8)}
    return {"model": content | {"decoder.0.grn.gamma": torch.zeros(1, 1, 1, 8)}, "epoch": 799}


def torchvision_convnext(state: State, head: str = "features.") -> dict[str, Tensor]:
    """torchvision's names, its layer scale of (D, 1, 1) and linear layers."""
    parts = {"conv_dw": "block.0", "norm": "block.2", "mlp.fc1": "block.3", "mlp.fc2": "block.5"}
    out = {}
    for name, tensor in state.items():
        block = re.fullmatch(r"stages\.(\d)\.blocks\.(\d+)\.(.+?)(\.weight|\.bias|)", name)
        down = re.fullmatch(r"stages\.(\d)\.downsample\.(.+)", name)
        if block and block[3] == "gamma":
            own, tensor = "layer_scale", tensor[:, None, None]
        elif block:
            own = parts[block[3]] + block[4]
            tensor = tensor[:, :, 0, 0] if tensor.dim() == 4 and "fc" in block[3] else tensor
        if block:
            name = f"{head}{2 * int(block[1]) + 1}.{block[2]}.{own}"
        elif down:
            name = f"{head}{2 * int(down[1])}.{down[2]}"
        else:
            name = name.replace("stem.", f"{head}0.").replace("head.norm.", "classifier.0.")
        out[name] = tensor
    return out


def hf_convnext(state: State) -> dict[str, Tensor]:
    """transformers' names."""
    out = {}
    for name, tensor in fair(state).items():
        name = name.replace("downsample_layers.0.0.", "embeddings.patch_embeddings.")
        name = name.replace("downsample_layers.0.1.", "embeddings.layernorm.")
        name = re.sub(r"downsample_layers\.(\d)\.", r"encoder.stages.\1.downsampling_layer.", name)
        name = re.sub(r"^stages\.(\d)\.(\d+)\.", r"encoder.stages.\1.layers.\2.", name)
        name = re.sub(r"(^|\.)norm\.", r"\1layernorm.", name)
        name = name.replace("grn.gamma", "grn.weight").replace("grn.beta", "grn.bias")
        out[re.sub(r"\.gamma$", ".layer_scale_parameter", name)] = tensor
    return out


def hf_dinov3(state: State, head: str = "model.") -> dict[str, Tensor]:
    """transformers' names of DINOv3's; version 4 has no `model.`."""
    out = {}
    for name, tensor in fair(
        state, conv_dw="depthwise_conv", **{"mlp.fc": "pointwise_conv"}
    ).items():
        name = re.sub(r"^stages\.(\d)\.(\d+)\.", rf"{head}stages.\1.layers.\2.", name)
        name = re.sub(r"downsample_layers\.(\d)\.", rf"{head}stages.\1.downsample_layers.", name)
        out[re.sub(r"(^|\.)norm\.", r"\1layer_norm.", name)] = tensor
    return out


def mm_convnext(state: State) -> dict[str, Any]:
    words = {"mlp.fc": "pointwise_conv", "head.norm.": "norm3."}
    trunk = put("backbone.", fair(state, conv_dw="depthwise_conv", **words))
    return {"meta": {"epoch": 300}, "state_dict": trunk | {"head.fc.weight": torch.zeros(8)}}


def without_scale(state: State) -> dict[str, Tensor]:
    """VICRegL's ConvNeXt has no layer scale."""
    return {name: tensor for name, tensor in state.items() if not name.endswith(".gamma")}


def twice(state: State) -> dict[str, Tensor]:
    """DINOv3 stores the last norm under two names."""
    own = fair(state)
    return own | {f"norms.3.{leaf}": own[f"norm.{leaf}"].clone() for leaf in ("weight", "bias")}


# ---- EfficientNet-Lite: lukemelas' names for canonical (timm's) ones, by substitution


def lukemelas(state: State) -> dict[str, Tensor]:
    """Blocks are counted through the network, and each part is named after what it does."""
    blocks: list[str] = []
    out = {}
    for name, tensor in state.items():
        block = re.fullmatch(r"blocks\.(\d\.\d)\.(\w+)\.(\w+)", name)
        if block is None:
            for word, own in (("bn2.", "_bn1."), ("bn1.", "_bn0."), ("conv_", "_conv_")):
                if name.startswith(word):
                    out[name.replace(word, own)] = tensor
            continue
        if block[1] not in blocks:
            blocks.append(block[1])
        order = ["conv_dw", "bn1", "conv_pw", "bn2"]
        parts = ["_depthwise_conv", "_bn1", "_project_conv", "_bn2"]
        if len(blocks) > 1:
            order = ["conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3"]
            parts = ["_expand_conv", "_bn0", *parts]
        number = blocks.index(block[1])
        out[f"_blocks.{number}.{parts[order.index(block[2])]}.{block[3]}"] = tensor
    return out
