"""The doctor's parts: counts and samples of data, the machine, weights and their proof."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.models import resnet18

from pretrain.common.distributed import missing_gpus
from pretrain.common.errors import InputError
from pretrain.data.datasets import open_images
from pretrain.data.origins import evenly
from transfer.checkpoints.opened import OpenedWeights
from transfer.doctor.data import SAMPLES, check_split
from transfer.doctor.environment import check_environment
from transfer.doctor.rows import FAIL, OK, WARN, Rows, as_json, as_text
from transfer.doctor.weights import check_weights


def test_rows_for_people_and_machines() -> None:
    rows = Rows()
    rows.add("a", OK, "fine")
    with rows.about("longer"):
        raise InputError("key X  is wrong")
    assert as_text(rows) == "ok    a       fine\nfail  longer  key X is wrong"
    assert [row.name for row in rows.failures()] == ["longer"]
    assert json.loads(as_json(rows))["ok"] is False


def images(folder: Path, count: int) -> None:
    for label in ("n01", "n02"):
        (folder / label).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / label / f"{number}.jpg")


def split_row(name: str) -> tuple[str, str]:
    rows, found = Rows(), open_images(name)
    left_out, files = found.left_out, found.files()
    check_split(
        rows, name, len(found), len(found.classes), found.read, left_out=left_out, files=files
    )
    (row,) = rows
    return row.status, row.detail


def test_data_is_counted_and_samples_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    images(tmp_path / "imagenet" / "train", 6)
    assert split_row(f"folder:{tmp_path}/imagenet:train") == (
        OK,
        "12 images, 2 classes; 8 of 8 samples read",
    )
    status, detail = split_row("imagenet:train")
    assert status == WARN and "the whole set has 1000 classes" in detail
    last = tmp_path / "imagenet" / "train" / "n02" / "5.jpg"
    last.write_bytes(last.read_bytes()[:100])
    status, detail = split_row(f"folder:{tmp_path}/imagenet:train")
    assert status == FAIL and str(last) in detail


def test_headers_find_what_samples_miss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images(tmp_path / "set", 30)
    name = f"folder:{tmp_path}/set"
    assert split_row(name)[0] == OK
    bad = [tmp_path / "set" / "n01" / f"{number}.jpg" for number in (3, 5)]
    for path in bad:
        path.write_bytes(b"<html>")
    status, detail = split_row(name)
    assert status == FAIL and "unreadable: 2 of 60 files: " in detail
    assert all(f"{path} cannot be read" in detail for path in bad)
    for path in bad:
        Image.new("RGB", (40, 40)).save(path)
    monkeypatch.setenv("MSCN_MAX_IMAGE_PIXELS", "1000")
    status, detail = split_row(name)
    assert status == FAIL and "2 of 60 files" in detail and "more than 1000 pixels" in detail


def test_files_that_are_left_out(tmp_path: Path) -> None:
    images(tmp_path, 4)
    for extra in ("notes.txt", ".hidden"):
        (tmp_path / "n01" / extra).write_text("x")
    status, detail = split_row(f"folder:{tmp_path}")
    assert status == OK and "left out: 1 .txt, 1 hidden or system files" in detail
    (tmp_path / "n01" / "a.heic").write_text("x")
    status, detail = split_row(f"folder:{tmp_path}")
    assert status == WARN and "left out: 1 .heic, 1 .txt" in detail


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 1000])
def test_samples_are_spread_from_first_to_last(count: int) -> None:
    found = list(evenly(count, SAMPLES))
    assert len(found) == len(set(found)) == min(8, count)
    assert not count or (found[0], found[-1]) == (0, count - 1)


def test_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "gone"))
    rows = Rows()
    check_environment(rows, tmp_path / "not" / "yet", torch.cuda.device_count() + 2, "detectron2")
    found = {row.name: row for row in rows}
    assert found["python"].status == found["torch"].status == OK
    assert found["gpu"].status == FAIL and "--num-gpus" in found["gpu"].detail
    assert found["gpu"].detail == missing_gpus(torch.cuda.device_count() + 2)  # as a run says it
    assert found["disk"].detail.endswith(f"free at {tmp_path}")
    assert found["data root"].status == WARN and "gone" in found["data root"].detail
    assert "is missing: put your data sets there, or correct the" in found["data root"].detail
    if "not installed" in found["detectron2"].detail:
        assert found["detectron2"].status == FAIL


def test_weights_are_read_and_proven(tmp_path: Path) -> None:
    torch.save(resnet18().state_dict(), tmp_path / "r18.pth")
    rows = Rows()
    assert check_weights(rows, OpenedWeights(str(tmp_path / "r18.pth")), "resnet18") == "resnet18"
    first, proof, *warnings = rows
    assert first.status == OK and "resnet18" in first.detail and "120 of 120" in first.detail
    assert (proof.name, proof.status) == ("proof", OK) and "proven equal" in proof.detail
    assert {row.status for row in warnings} == {WARN}
    assert any("initialisation" in row.detail for row in warnings)


def test_weights_that_do_not_fit_or_read(tmp_path: Path) -> None:
    torch.save(resnet18().state_dict(), tmp_path / "r18.pth")
    (tmp_path / "bad.pth").write_bytes(b"not weights")
    rows = Rows()
    check_weights(rows, OpenedWeights(str(tmp_path / "r18.pth")), "resnet50")
    assert [
        "is a resnet18, but the config builds a resnet50" in row.detail for row in rows.failures()
    ] == [True]
    rows = Rows()
    assert check_weights(rows, OpenedWeights(str(tmp_path / "bad.pth")), None) is None
    assert [row.name for row in rows.failures()] == ["weights"]
