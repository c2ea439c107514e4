"""Every format: detected, each key explained, converted to every layout with proof, and back."""

from __future__ import annotations

import pickle
import random
import re
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from pretrain.common.errors import InputError
from tests.transfer.checkpoints import formats, formats_foreign, test_vits
from tools.convert_weights import main
from transfer.checkpoints.convert import check, write_proven
from transfer.checkpoints.formats.all_formats import FORMATS
from transfer.checkpoints.formats.find_format import find_format
from transfer.checkpoints.formats.key_format import Found
from transfer.checkpoints.names import layouts as layout
from transfer.checkpoints.networks.architectures import expected_shapes
from transfer.checkpoints.read import read_weights
from transfer.checkpoints.readers.raw import RawFile, by_name
from transfer.checkpoints.readers.tf_bundle import _masked_crc32c
from transfer.checkpoints.unmatched_keys import sort_keys
from transfer.checkpoints.writers import suffixes_of

CASES = formats.CASES
# What is written depends on the backbone and its architecture, not on the format that was read. So
# these cases, one of each kind, are written with every suffix, and all others with one in turn.
EVERY_SUFFIX = {"mscn", "mscn ViT", "mscn ConvNeXt", "EfficientNet-Lite", "msra"}


@pytest.fixture(scope="module")
def states(builders: ModuleType) -> dict[str, dict[str, Tensor]]:
    names = {case.backbone for case in CASES.values()}
    return {name: builders.trained_state(name) for name in names}


@pytest.fixture(scope="module")
def file_of(
    states: dict[str, dict[str, Tensor]], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """A function that returns the file of a case, written once; those of a ResNet-50 are 100 MB."""
    return lru_cache(
        lambda name: formats.write(
            CASES[name],
            tmp_path_factory.mktemp("case"),
            states[CASES[name].backbone],
            _masked_crc32c,
        )
    )


def source_of(case: formats.Case) -> str:
    return case.format if case.forced else "auto"


def test_every_format_has_a_case() -> None:
    covered = {case.format for case in CASES.values()}
    covered |= {case["format"] for case in test_vits.CASES.values()}
    left = {
        "simmim",
        "generic",  # has tests of its own
        "timm_convnet",  # likewise
        "swav_bare",
        "lightly_byol_old",
        "lightly_byol_old_flat",
        "lightly_moco_old_flat",
    }
    assert set(FORMATS) - covered <= left


@pytest.mark.parametrize("name", CASES)
def test_detected_converted_and_back(
    name: str, states: dict, file_of: Callable[[str], Path], tmp_path: Path
) -> None:
    case, state = CASES[name], states[CASES[name].backbone]
    suffixes = suffixes_of(case.backbone)
    wanted = (*suffixes, ".pkl")  # if a backbone is not written with a suffix, it is left out
    if name not in EVERY_SUFFIX:
        wanted = suffixes = [suffixes[list(CASES).index(name) % len(suffixes)]]
    report = check(str(file_of(name)), wanted, source=source_of(case))
    weights = report.weights
    assert report.format == case.format and weights.backbone == case.backbone
    assert weights.provenance["epochs"] == case.epochs
    assert len(weights.account.used) == weights.account.expected
    assert not report.failures
    folded = "folded" in case.format or "blobs" in case.format
    for key, tensor in weights.state.items():
        if key.endswith(case.lacks or ("none",)):
            expected = torch.full_like(tensor, 0.0 if key.endswith("bias") else 1.0)
        elif folded and key.endswith(("running_mean", "running_var")):
            expected = torch.full_like(tensor, 0.0 if key.endswith("mean") else 1 - 1e-5)
        else:
            expected = state[key]
        assert torch.equal(tensor, expected), key
    wanted = {key for key in state if key in weights.state or not key.endswith("tracked")}
    assert set(weights.state) == wanted
    for suffix in suffixes:
        output = tmp_path / f"out{suffix}"
        write_proven(report, output)
        back = read_weights(str(output))
        assert back.sha256 == weights.sha256 and back.preprocess == weights.preprocess
        assert all(torch.equal(back.state[key], weights.state[key]) for key in weights.state)
        assert dict(back.architecture) == dict(weights.architecture)


def content_of(case: formats.Case) -> RawFile:
    """A case's content with true names and shapes and no values."""
    shapes = expected_shapes(case.backbone, counters=True)
    if case.kind == "byol":
        params, averages = formats_foreign.byol_modules(
            {k: formats.zeros(*s) for k, s in shapes.items()}
        )
        content = {"experiment_state": {"online_params": params, "online_state": averages}}
    else:
        content = case.make({k: formats.zeros(*s) for k, s in shapes.items()})
    kind = "pickle" if case.kind == "byol" else case.kind
    content = by_name(content) if kind == "pickle" else content
    return RawFile(Path("file"), kind, content, None)


@pytest.mark.parametrize("name", CASES)
def test_every_lost_renamed_or_turned_key_is_named(name: str) -> None:
    case = CASES[name]
    found = find_format(content_of(case), source_of(case))
    assert found.format.name == case.format
    account, _, _ = sort_keys(found, "file")
    # Blocks are alike: of the tensors whose names differ only in numbers, two are enough.
    kinds = [re.sub(r"\d+", "#", found.canonical(key) or "") for key in account.used]
    first = dict(zip(reversed(kinds), reversed(account.used)))
    last = dict(zip(kinds, account.used))
    for key in dict.fromkeys((*first.values(), *last.values())):
        lost = {k: v for k, v in found.tensors.items() if k != key}
        with pytest.raises(InputError, match="1 missing: "):
            sort_keys(replace(found, tensors=lost), "file")
        renamed = {**lost, f"{key}x": found.tensors[key]}
        with pytest.raises(InputError, match="1 missing: "):
            sort_keys(replace(found, tensors=renamed), "file")
        check_turned(found, key)


def check_turned(found: Found, key: str) -> None:
    """A transposition that changes the shape is an error; but haiku's norms are (1, 1, 1, C), of
    which only C is read."""
    tensor = found.tensors[key]
    for axes in ((0, 1), (1, 2), (0, 3)):
        if max(axes) < tensor.dim() and tensor.shape[axes[0]] != tensor.shape[axes[1]]:
            turned = {**found.tensors, key: tensor.transpose(*axes)}
            if tensor.squeeze().dim() > 1 or tensor.dim() < 4:
                with pytest.raises(InputError, match="1 wrong shape: "):
                    sort_keys(replace(found, tensors=turned), "file")


PLAIN = [n for n, case in CASES.items() if case.kind in ("torch", "pickle")]


@pytest.mark.parametrize("name", PLAIN)
def test_a_lost_key_fails_the_command(
    name: str, states: dict, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    case = CASES[name]
    content = case.make(states[case.backbone])
    used = find_format(content_of(case), source_of(case))
    account, _, _ = sort_keys(used, "file")
    keys = [key for key in account.used if "num_batches" not in key]
    key = random.Random(name).choice(keys)
    mapping = content
    for part in FORMATS[case.format].containers[0]:
        mapping = mapping[part]
    # The account has names without what DDP put into them.
    del mapping[next(n for n in mapping if n.replace("module.", "") == key.replace("module.", ""))]
    path = tmp_path / "file.pth"
    if case.kind == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=4))
    else:
        torch.save(content, path)
    output = tmp_path / "out.pkl"
    assert main([str(path), str(output), "--source", source_of(case)]) == 2
    error = capsys.readouterr().err
    assert key in error and error.count("\n") == 1 and not output.exists()


WRONG: dict[str, Callable[[layout.Layout], layout.Layout]] = {
    "kernels turned": lambda one: replace(
        one, convert=lambda n, t: t.permute(3, 2, 1, 0) if t.dim() == 4 else t
    ),
    "two norms swapped": lambda one: replace(one, back=exchange(one, "bn1.weight", "bn2.weight")),
    "two convolutions swapped": lambda one: replace(
        one, back=exchange(one, "conv1.weight", "conv3.weight", "layer4.2.", "layer4.1.")
    ),
}


def exchange(
    one: layout.Layout, a: str, b: str, at: str = "layer3.1.", other: str | None = None
) -> Callable[[str], str | None]:
    first, second = f"{at}{a}", f"{other or at}{a if other else b}"
    pair = {first: second, second: first}
    return lambda name: pair.get(one.back(name), one.back(name))


@pytest.mark.parametrize("fault", WRONG)
@pytest.mark.parametrize("name", ["simclr", "msra", "simclr_v2_torch", "byol"])
def test_a_fault_of_the_converter_is_found(
    name: str, fault: str, file_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    if fault == "kernels turned" and name in ("msra", "simclr_v2_torch"):
        pytest.skip("its kernels are stored as torch's")
    if fault == "kernels turned" and name == "byol":
        pytest.skip("its norms are turned too")
    path = file_of(name)
    right = layout.LAYOUTS[FORMATS[name].layouts[0]]
    monkeypatch.setitem(
        layout.LAYOUTS, FORMATS[name].layouts[0], lambda names: WRONG[fault](right(names))
    )
    try:
        report = check(str(path), [".pkl"])
    except InputError as error:
        assert "wrong shape" in str(error)
    else:
        assert report.failures
