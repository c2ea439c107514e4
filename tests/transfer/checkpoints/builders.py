"""Makes checkpoint files in every supported format, with their real names, shapes and extras."""

from __future__ import annotations

import pickle
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from pretrain.common.checkpoint import save_checkpoint
from pretrain.data.preprocess import Preprocess
from transfer.checkpoints.build import build_trunk

CONFIG = "SEED: 3\nSOLVER: {EPOCHS: 2}\nOUTPUT_DIR: runs/x\n"


def trained_state(backbone: str, seed: int = 0) -> dict[str, Tensor]:
    """A state as after training: no BN tensor at its initial value."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        state = build_trunk(backbone, {}).state_dict()
        for name, tensor in state.items():
            if name.endswith("running_var") or (tensor.dim() == 1 and name.endswith("weight")):
                tensor.uniform_(0.5, 1.5)
            elif name.endswith(("running_mean", "bias")):
                tensor.normal_(0, 0.1)
            elif name.endswith(".gamma"):
                tensor.uniform_(0.1, 0.5)
            elif name.endswith("num_batches_tracked"):
                tensor.fill_(1000)
    return dict(state)


def mscn(path: Path, state: dict[str, Tensor], backbone: str, **changes: object) -> Path:
    content = {
        "model": {
            **{f"trunk.{name}": tensor for name, tensor in state.items()},
            "projector.0.weight": torch.zeros(8, 8),
            "projector.1.num_batches_tracked": torch.tensor(3),
        },
        "method": "mscn",
        "backbone": backbone,
        "optimizer": {"state": {}, "param_groups": []},
        "schedule": {
            "epochs": 2,
            "steps_per_epoch": 5,
            "total_steps": 10,
            "images_seen": 80,
            "views_seen": 160,
            "seconds": 1.5,
            "gpu_seconds": 0.0,
        },
        "loader": {"epoch": 2, "step_in_epoch": 0},
        "rng": {},
        "step": 10,
        "config": CONFIG,
        "environment": {"torch": "2"},
        "preprocess": Preprocess().to_dict(),
    }
    save_checkpoint({**content, **changes}, path)
    return path


def moco(path: Path, state: dict[str, Tensor], backbone: str, mlp: bool = True) -> Path:
    width = state[[name for name in state if name.endswith("running_var")][-1]].numel()
    layers = {"fc.0": (width, width), "fc.2": (128, width)} if mlp else {"fc": (128, width)}
    fc = {f"{layer}.weight": torch.zeros(shape) for layer, shape in layers.items()}
    fc.update({f"{layer}.bias": torch.zeros(shape[0]) for layer, shape in layers.items()})
    content = {
        **{f"module.encoder_q.{name}": tensor for name, tensor in {**state, **fc}.items()},
        **{f"module.encoder_k.{name}": tensor + 1 for name, tensor in {**state, **fc}.items()},
        "module.queue": torch.zeros(128, 16),
        "module.queue_ptr": torch.zeros(1, dtype=torch.long),
    }
    optimizer = {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.03}]}
    file = {"epoch": 200, "arch": backbone, "state_dict": content, "optimizer": optimizer}
    torch.save(file, path)
    return path


def torchvision(path: Path, state: dict[str, Tensor]) -> Path:
    torch.save({**state, "fc.weight": torch.zeros(10, 4), "fc.bias": torch.zeros(10)}, path)
    return path


def bare_safetensors(path: Path, state: dict[str, Tensor]) -> Path:
    safetensors.torch.save_file(state, path)
    return path


def detectron2_name(name: str) -> str:
    """The table of names, spelled by substitution, for comparison with the converter's own."""
    if not name.startswith("layer"):
        name = f"stem.{name}"
    for index in (4, 3, 2, 1):
        name = name.replace(f"layer{index}.", f"res{index + 1}.")
    for index in (1, 2, 3):
        name = name.replace(f"bn{index}.", f"conv{index}.norm.")
    return name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")


def detectron2(path: Path, state: dict[str, Tensor], **extra: object) -> Path:
    """The file of MoCo's converter: pickled by numpy, with the classifier under `stem.fc`."""
    model = {detectron2_name(name): tensor.numpy() for name, tensor in state.items()}
    model["stem.fc.weight"] = torch.zeros(10, 4).numpy()
    content = {"model": model, "__author__": "MOCO", "matching_heuristics": True, **extra}
    path.write_bytes(pickle.dumps(content))
    return path


def every_format(folder: Path, state: dict[str, Tensor], backbone: str) -> dict[str, Path]:
    """Returns a file of each format by source name (safetensors counts as torchvision's)."""
    return {
        "mscn": mscn(folder / "checkpoint.pth", state, backbone),
        "moco_v1": moco(folder / "moco_v1.pth.tar", state, backbone, mlp=False),
        "moco_v2": moco(folder / "moco_v2.pth.tar", state, backbone, mlp=True),
        "torchvision": torchvision(folder / "torchvision.pth", state),
        "safetensors": bare_safetensors(folder / "bare.safetensors", state),
        "detectron2": detectron2(folder / "theirs.pkl", state),
    }
