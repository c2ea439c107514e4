"""Containers that share their parts: few bytes, but more paths than a reader could follow."""

from __future__ import annotations

import pickle
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain.common.errors import InputError
from transfer.checkpoints.read import read
from transfer.checkpoints.readers.shared_content import check_sharing

KINDS: dict[str, Any] = {
    "mappings": lambda inner: {str(i): inner for i in range(120)},
    "lists": lambda inner: [inner] * 120,
    "tuples": lambda inner: (inner,) * 120,
    "both": lambda inner: [{str(i): inner for i in range(120)}],
}


def bomb(kind: str, leaf: Any) -> Any:
    for _ in range(7):
        leaf = KINDS[kind](leaf)
    return {"model": leaf, "__author__": "x"}


@pytest.mark.parametrize("suffix", [".pkl", ".pth"])
@pytest.mark.parametrize("kind", KINDS)
def test_shared_content_ends_at_once(kind: str, suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"x{suffix}"
    content = bomb(kind, {"k": torch.zeros(1) if suffix == ".pth" else 1.0})
    if suffix == ".pkl":
        file.write_bytes(pickle.dumps(content, 2))
    else:
        torch.save(content, file)
    began = time.process_time()
    with pytest.raises(InputError, match=f"x{suffix}.* holds containers that share"):
        read(str(file))
    assert time.process_time() - began < 1


def test_tuples_of_tuples_end_at_once(tmp_path: Path) -> None:
    """Two to the power of 60 paths in 100 bytes."""
    (tmp_path / "x.pkl").write_bytes(b"\x80\x02}K\x01K\x02" + b"2\x86" * 60 + b"s.")
    began = time.process_time()
    with pytest.raises(InputError, match="x.pkl"):
        read(str(tmp_path / "x.pkl"))
    assert time.process_time() - began < 1


def test_networks_that_are_stored_twice_pass(tmp_path: Path) -> None:
    state = {f"layer.{i}": float(i) for i in range(50_000)}
    check_sharing({"model": state, "ema": state, "copies": [state, state]}, tmp_path / "x.pth")
