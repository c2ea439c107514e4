"""Draws and the file of replicates."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest

from pretrain.common.errors import InputError
from transfer.results.replicates import Replicates, draw_weights, ids_sha256, read_replicates


def test_a_draw_takes_as_many_images_as_there_are() -> None:
    weights = draw_weights(7, 300)
    assert weights.shape == (7, 300) and (weights.sum(axis=0) == 7).all() and weights.min() == 0
    assert np.array_equal(weights[:, :5], draw_weights(7, 5))
    # An image's count is binomial(7, 1/7), of mean 1 and variance 6/7
    assert weights.mean() == 1.0 and weights.var() == pytest.approx(6 / 7, abs=0.1)


def test_draws_follow_sorted_ids_whatever_their_order() -> None:
    one, other = Replicates.draw(["b", "a", "c"]), Replicates.draw(["c", "b", "a"])
    assert one.ids == other.ids == ["a", "b", "c"]
    assert np.array_equal(one.weights, other.weights) and (one.weights[:, 0] == 1).all()
    assert one.rows(["c", "a"]).tolist() == [2, 0]


def test_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    replicates = Replicates.draw([3, 1, 2], draws=4)
    values = np.array([50.0, 51.0, np.nan, 49.123456789, 0.0])
    replicates.add({"bbox/AP": values, "wrong": values})
    replicates.check({"bbox/AP": 50.0, "wrong": 50.1})
    assert "wrong" in caplog.text
    stored = read_replicates(replicates.write(tmp_path))
    assert stored.key == (0, ids_sha256([1, 2, 3])) and stored.images == 3
    assert stored.full == {"bbox/AP": 50.0} and set(stored.values) == {"bbox/AP"}
    assert stored.values["bbox/AP"] == pytest.approx(values[1:], abs=1e-6, nan_ok=True)


@pytest.mark.parametrize("change", ["torn", "schema", "key", "short", "list"])
def test_malformed_files_are_named(tmp_path: Path, change: str) -> None:
    replicates = Replicates.draw([1, 2], draws=3)
    replicates.add({"top1": np.arange(4.0)})
    path = replicates.write(tmp_path)
    content = json.loads(path.read_text())
    if change == "schema":
        content["schema"] = 99
    elif change == "key":
        del content["images_sha256"]
    elif change == "short":
        content["replicates"]["top1"].pop()
    elif change == "list":
        content["replicates"] = {"top1": ["x"]}
    text = json.dumps(content)
    path.write_text(text[:40] if change == "torn" else text)
    with pytest.raises(InputError, match=str(path)):
        read_replicates(path)


def test_names_of_images_that_are_not_utf_8_have_an_identity(tmp_path: Path) -> None:
    name = os.fsdecode(b"ch\xe2t.jpg")
    replicates = Replicates.draw([name, "dog.jpg"], draws=2)
    replicates.add({"top1": np.arange(3.0)})
    digest = read_replicates(replicates.write(tmp_path)).key[1]
    # Python reads the byte E2 as U+DCE2, which is written as these three bytes
    assert digest == hashlib.sha256(b"ch\xed\xb3\xa2t.jpg\ndog.jpg").hexdigest()
