"""Damaged and mistyped files of weights, through the readers that every command uses."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from torch import Tensor

from pretrain.common.checkpoint import load_checkpoint
from pretrain.common.errors import InputError
from pretrain.data.preprocess import Preprocess
from tests.faults.fuzzing import bytes_of, fuzz
from tests.faults.mutations import edited_bytes, edited_tree
from tests.transfer.checkpoints import builders
from tests.transfer.checkpoints import formats_foreign as foreign
from transfer.checkpoints.read import read
from transfer.checkpoints.readers import tf_bundle
from transfer.training.files import read_model, write_model

FEW = 60
TF_SEEDS = Path(__file__).parents[1] / "transfer/checkpoints/data"
DEEP = "[" * 5000


def odd_tensors(tensor: Any) -> SearchStrategy[Any]:
    """What a tensor's place may hold in its stead: of other layout, shape, type and values."""
    unlike = tensor.is_quantized or tensor.is_meta or tensor.layout != torch.strided
    if unlike or tensor.numel() > 10**6:  # what an earlier edit put there
        return st.just(torch.zeros(3))
    made: list[Callable[[], Any]] = [
        lambda: tensor * float("nan"),
        lambda: tensor[None],
        lambda: tensor.to(torch.float16),
        lambda: tensor.to(torch.complex64),
        lambda: tensor.to(torch.int64),
        lambda: tensor.to_sparse(),
        lambda: torch.zeros(0),
        lambda: torch.zeros(1).expand(10**6, 10**6),
        lambda: torch.zeros(1, dtype=torch.bool),
        lambda: torch.empty(tensor.shape, device="meta"),
        lambda: torch.quantize_per_tensor(torch.zeros(tensor.shape), 0.1, 0, torch.qint8),
        lambda: tensor.t() if tensor.dim() == 2 else tensor.flip(0) if tensor.dim() else tensor,
    ]
    return st.sampled_from(made).map(lambda make: make())


def odd_arrays(tensor: Any) -> SearchStrategy[Any]:
    if tensor.dtype.kind not in "biufc":  # what an earlier edit put there
        return st.just(np.zeros(3, "f4"))
    made: list[Callable[[], Any]] = [
        lambda: tensor * np.nan,
        lambda: tensor[None],
        lambda: tensor.astype("f2"),
        lambda: tensor.astype(">f4"),
        lambda: tensor.astype("c8"),
        lambda: np.zeros(0),
        lambda: np.zeros((), "M8[D]"),
        lambda: np.array(["a"]),
    ]
    return st.sampled_from(made).map(lambda make: make())


def saved(content: Any, **how: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, **how)
    return stream.getvalue()


def facts_texts(facts: Any) -> SearchStrategy[Any]:
    """Facts next to the tensors, with fields of any type, length and size."""
    texts = edited_tree(facts).map(lambda tree: json.dumps(tree, default=str))
    return texts | st.sampled_from([DEEP, "[]", "", "null", 5, None, b"{}", "{" * 5000])


def state_of(backbone: str = "tiny_resnet") -> dict[str, Tensor]:
    return builders.trained_state(backbone)


def converted(folder: Path, suffix: str) -> Path:
    """A file of the converter, with its facts."""
    from transfer.checkpoints.convert import check, write_proven

    source = builders.mscn(folder / "source.pth", state_of(), "tiny_resnet")
    report = check(str(source), [suffix])
    write_proven(report, folder / f"seed{suffix}")
    return folder / f"seed{suffix}"


def zip_entries(data: bytes) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [(entry.filename, archive.read(entry)) for entry in archive.infolist()]


def zipped(entries: list[tuple[str, bytes]]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return stream.getvalue()


@st.composite
def edited_pickle_in_zip(draw: DrawFn, unchanged: list[tuple[str, bytes]]) -> bytes:
    """The pickle of a torch file changed, and its checksum made right again."""
    entries = list(unchanged)
    names = [name for name, _ in entries]
    at = draw(st.sampled_from([i for i, name in enumerate(names) if "/data/" not in name]))
    entries[at] = names[at], draw(edited_bytes([entries[at][1]]))
    return zipped(entries)


def torch_cases(data: bytes, **how: Any) -> SearchStrategy[bytes]:
    """A torch file: its bytes, its directory, its pickle, its fields and its facts are changed."""
    content = torch.load(io.BytesIO(data), weights_only=True)
    metadata = getattr(content, "_metadata", None)
    trees = edited_tree(content, odd_leaf=odd_tensors).map(lambda tree: saved(tree, **how))
    cases = [edited_bytes([data], focus=[(-3000, -1), (0, 3000)]), trees]
    if not how:
        cases.append(edited_pickle_in_zip(zip_entries(data)))
    if metadata:

        def with_facts(text: Any) -> bytes:
            state = OrderedDict(content)
            setattr(state, "_metadata", OrderedDict(transfer=text))
            return saved(state, **how)

        cases.append(facts_texts(json.loads(metadata["transfer"])).map(with_facts))
    return st.one_of(cases)


def read_file(file: Path) -> None:
    read(str(file))


def test_torch_zip(tmp_path: Path) -> None:
    cases = torch_cases(converted(tmp_path, ".pth").read_bytes())
    fuzz("checkpoint .pth (zip)", cases, bytes_of, read_file, tmp_path / "x.pth", FEW)


def test_own_checkpoint(tmp_path: Path) -> None:
    data = builders.mscn(tmp_path / "source.pth", state_of(), "tiny_resnet").read_bytes()

    def both(file: Path) -> None:
        load_checkpoint(file)
        read(str(file))

    fuzz("own checkpoint .pth", torch_cases(data), bytes_of, both, tmp_path / "x.pth", FEW)


def test_torch_legacy(tmp_path: Path) -> None:
    source = builders.mscn(tmp_path / "source.pth", state_of(), "tiny_resnet")
    content = torch.load(source, weights_only=True)
    data = saved(content, _use_new_zipfile_serialization=False)
    cases = torch_cases(data, _use_new_zipfile_serialization=False)
    fuzz("checkpoint .pth (legacy)", cases, bytes_of, read_file, tmp_path / "x.pth", FEW)


def test_pickle(tmp_path: Path) -> None:
    data = converted(tmp_path, ".pkl").read_bytes()
    content = pickle.loads(data)
    facts = json.loads(content["transfer"])
    trees = edited_tree(content, odd_leaf=odd_arrays)
    cases = (
        edited_bytes([data], focus=[(0, 300), (0, 3000), (-2000, -1)])
        | st.builds(pickle.dumps, trees, st.sampled_from([2, 4, 5]))
        | facts_texts(facts).map(lambda text: pickle.dumps({**content, "transfer": text}))
    )
    fuzz("checkpoint .pkl", cases, bytes_of, read_file, tmp_path / "x.pkl", FEW)


def test_safetensors(tmp_path: Path) -> None:
    data = converted(tmp_path, ".safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]

    def whole(tree: Any) -> bytes:
        text = json.dumps(tree).encode()
        text += b" " * (-len(text) % 8)
        return struct.pack("<Q", len(text)) + text + body

    def with_facts(text: Any) -> bytes:
        return whole({**header, "__metadata__": {"transfer": text}})

    facts = facts_texts(json.loads(header["__metadata__"]["transfer"]))
    cases = (
        edited_bytes([data], focus=[(0, 8), (0, 200), (0, 8 + length)])
        | edited_tree(header).map(whole)
        | facts.filter(lambda text: not isinstance(text, bytes)).map(with_facts)
    )
    fuzz("checkpoint .safetensors", cases, bytes_of, read_file, tmp_path / "x.safetensors", FEW)


@st.composite
def edited_tf_index(draw: DrawFn, data: bytes) -> bytes:
    """Bytes in a block of the index changed, and the block's checksum made right again."""
    footer = data[-tf_bundle.FOOTER_BYTES :]
    _, at = tf_bundle._handle(footer, 0)
    (offset, size), _ = tf_bundle._handle(footer, at)
    blocks = [tf_bundle._handle(place, 0)[0] for _, place in tf_bundle._block(data, offset, size)]
    begin, size = draw(st.sampled_from([*blocks, (offset, size)]))
    new = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        wanted = st.sampled_from([0, 1, 8, 16, 18, 127, 128, 255]) | st.integers(0, 255)
        new[begin + draw(st.integers(0, size - 1))] = draw(wanted)
    end = begin + size + 1
    new[end : end + 4] = struct.pack("<I", tf_bundle._masked_crc32c(bytes(new[begin:end])))
    return bytes(new)


@pytest.mark.parametrize("name", ["model.ckpt-250228", "sharded", "sliced"])
def test_tensorflow_bundle(name: str, tmp_path: Path) -> None:
    """Files of TensorFlow itself: the reader accepts what it supports of them, which is not a
    backbone, so that the commands refuse it."""
    for shard in TF_SEEDS.glob(f"{name}.data-*"):
        (tmp_path / shard.name).write_bytes(shard.read_bytes())
    data = (TF_SEEDS / f"{name}.index").read_bytes()
    file = tmp_path / f"{name}.index"  # a refusal may be of a shard that the index names
    file.write_bytes(data)
    if name == "sliced":
        with pytest.raises(InputError, match="is in slices"):
            tf_bundle.read_tf_bundle(file)
    else:
        assert tf_bundle.read_tf_bundle(file)[0]

    def both(file: Path) -> None:
        with suppress(InputError):
            read_file(file)
        tf_bundle.read_tf_bundle(file)

    cases = edited_bytes([data]) | edited_tf_index(data)
    fuzz(f"TensorFlow {name}", cases, bytes_of, both, file, FEW // 3, named=name)


def test_tensorflow_backbone(tmp_path: Path) -> None:
    """A ResNet-50 as SimCLR's authors store it: undamaged, every step accepts it."""
    with torch.device("meta"):
        names = torchvision.models.resnet50().state_dict()
    state = {name: torch.zeros(()).expand(value.shape) for name, value in names.items()}
    largest = max(value.numel() for value in state.values())
    numbers = torch.rand(largest, generator=torch.Generator().manual_seed(0)) + 0.5
    tensors = foreign.simclr(state)
    shared = numbers.numpy().tobytes()
    data = foreign.write_bundle(tmp_path / "seed", tensors, tf_bundle._masked_crc32c, shared)
    (tmp_path / "seed.data-00000-of-00001").rename(tmp_path / "model.data-00000-of-00001")
    file, index = tmp_path / "model.index", data.read_bytes()
    file.write_bytes(index)
    assert read(str(file)).weights.backbone == "resnet50"
    cases = edited_bytes([index]) | edited_tf_index(index)
    fuzz("TensorFlow, a backbone", cases, bytes_of, read_file, file, FEW // 6, named="model")


def test_model_final(tmp_path: Path) -> None:
    state = {"roi_heads.box.weight": torch.ones(2, 2), "backbone.a": torch.ones(3)}
    facts: dict[str, Any] = dict(preprocess=Preprocess(), architecture={"stride_in_1x1": True})
    write_model(tmp_path, state, iteration=3, seconds=1.5, classes=["a", "b"], **facts)
    data = (tmp_path / "model_final.pth").read_bytes()
    content = torch.load(io.BytesIO(data), weights_only=True)
    changed = facts_texts(json.loads(content["transfer"]))
    cases = (
        changed.map(lambda text: saved({**content, "transfer": text}))
        | edited_tree(content, odd_leaf=odd_tensors).map(saved)
        | edited_bytes([data])
    )
    file = tmp_path / "case" / "model_final.pth"
    file.parent.mkdir()
    fuzz("model_final.pth", cases, bytes_of, read_model, file, FEW)
