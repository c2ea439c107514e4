"""Each kind of case can fail: a planted fault in the code is found, with its file and line.

It is found by the measurement that is compared with the record.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.fx.experimental._config as shapes
from torch import Tensor
from torch.utils._pytree import tree_leaves

from pretrain.backbones.resnet import Trunk
from pretrain.common import knn
from pretrain.data.views import ViewMaker
from tests.gpu import (
    classification_cases,
    detection_cases,
    pretraining_cases,
    segmentation_cases,
)
from tests.gpu.pretend_cuda import CudaTensor
from tests.gpu.rehearsal import differences, for_the_record
from transfer.classification.protocols import linear
from transfer.detection.torchvision_engine.box_head import BoxPredictor
from transfer.segmentation.fcn import FcnHead

SMALL = ("BACKBONE.NAME", "tiny_resnet", "PROTOCOL.RESIZE", "64", "PROTOCOL.IMAGE_SIZE", "64")
Fault = Callable[[Tensor], object]
# A small case of each kind; where its fault is planted.
CASES: dict[str, tuple[Callable[[], dict[str, Any]], Any, str]] = {
    "pretraining": (
        lambda: pretraining_cases.measure(
            "simclr_r18_tiny100@1", overrides=["BACKBONE.NAME", "tiny_resnet"]
        ),
        ViewMaker,
        "__call__",
    ),
    "detection, training": (
        lambda: detection_cases.measure("train/digits_coco@1"),
        BoxPredictor,
        "losses",
    ),
    "detection, prediction": (
        lambda: detection_cases.measure("predict/digits_coco@1"),
        BoxPredictor,
        "detect",
    ),
    "segmentation, training": (
        lambda: segmentation_cases.measure("train/digits_fcn@1"),
        FcnHead,
        "forward",
    ),
    "segmentation, prediction": (
        lambda: segmentation_cases.measure("predict/digits_fcn@1"),
        FcnHead,
        "forward",
    ),
    "features": (
        lambda: classification_cases.measure("features/knn_imagenet@1", SMALL),
        Trunk,
        "forward",
    ),
    "kNN": (lambda: classification_cases.measure("score/knn_imagenet@1"), knn, "_join"),
    "linear probe": (
        lambda: classification_cases.measure("score/linear_imagenet@1"),
        linear.Heads,
        "hits",
    ),
    "random crops": (
        lambda: classification_cases.measure("train/linear_imagenet_moco@1", SMALL),
        Trunk,
        "forward",
    ),
    "fine-tuning": (
        lambda: classification_cases.measure("train/semi_imagenet_1pct@1", SMALL),
        Trunk,
        "forward",
    ),
    "test images": (
        lambda: classification_cases.measure("test/linear_imagenet_moco@1", SMALL),
        Trunk,
        "forward",
    ),
}
QUICK = ("detection, training", "segmentation, prediction", "kNN", "random crops")
KINDS = [
    pytest.param(kind, marks=[] if kind in QUICK else [pytest.mark.slow], id=kind) for kind in CASES
]


@pytest.fixture(autouse=True)
def masks_without_values() -> Iterator[None]:
    """As in the rehearsal: a mask without values selects all places."""
    with shapes.patch(meta_nonzero_assume_all_nonzero=True):
        yield


@functools.cache
def without_fault(kind: str) -> dict[str, Any]:
    return for_the_record(CASES[kind][0]())


def plant(monkeypatch: pytest.MonkeyPatch, kind: str, fault: Fault) -> None:
    """Lets the product's function begin with the fault, on a tensor that it is given."""
    _, owner, name = CASES[kind]
    sound = getattr(owner, name)

    def faulty(*args: Any, **options: Any) -> Any:
        given = (leaf for leaf in tree_leaves((args, options)) if isinstance(leaf, CudaTensor))
        tensor = next((leaf for leaf in given if leaf.dim()), None)
        if tensor is not None:  # a trunk is tried on the CPU first
            fault(tensor)
        return sound(*args, **options)

    monkeypatch.setattr(owner, name, faulty)


def with_a_tensor_of_the_cpu(given: Tensor) -> object:
    return given + torch.ones(given.shape)


def with_a_generator_of_the_cpu(given: Tensor) -> object:
    return torch.rand(3, device=given.device, generator=torch.Generator())


def with_a_value_read(given: Tensor) -> object:
    return given.sum().item()


def with_a_blocking_copy(given: Tensor) -> object:
    return torch.tensor([1.0, 2.0], device=given.device)


@pytest.mark.parametrize(
    "fault, why",
    [(with_a_tensor_of_the_cpu, "same device"), (with_a_generator_of_the_cpu, "for generator")],
)
@pytest.mark.parametrize("kind", KINDS)
def test_what_a_gpu_refuses_ends_the_case(
    monkeypatch: pytest.MonkeyPatch, kind: str, fault: Fault, why: str
) -> None:
    plant(monkeypatch, kind, fault)
    with pytest.raises(RuntimeError, match=why) as failure:
        CASES[kind][0]()
    assert here(fault) in str(failure.value)


@pytest.mark.parametrize("kind", KINDS)
def test_what_makes_the_host_wait_is_a_difference(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    sound = without_fault(kind)
    faults = {
        with_a_value_read: "a value is read",
        with_a_blocking_copy: "a blocking copy of 8 bytes to the device",
    }
    for fault in faults:
        plant(monkeypatch, kind, fault)
    found = differences(CASES[kind][0](), sound)
    assert any(line.startswith("synchronisations is ") for line in found), found
    for fault, why in faults.items():
        pattern = rf"new: \d+ x {why}, {here(fault)}"
        assert any(re.match(pattern, line) for line in found), found


def here(fault: Fault) -> str:
    """The file and line of the fault itself, which is the only line of its function."""
    return f"tests/gpu/inside_transfer_faults.py:{fault.__code__.co_firstlineno + 1} "


def test_a_sound_case_has_no_differences() -> None:
    kind = "detection, training"
    assert differences(CASES[kind][0](), without_fault(kind)) == []
