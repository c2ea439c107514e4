"""A COCO file from the cache against the same parsed file: each record, and possible faults."""

from __future__ import annotations

import json
import multiprocessing
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.transfer.datasets.test_coco_clear import BAD, HEIGHT, ODD, WIDTH, content
from transfer.datasets import coco_cache
from transfer.datasets.coco import read_coco, read_instances
from transfer.datasets.coco_annotations import AnnotationColumns
from transfer.datasets.registry import open_sets

CLASSES = ("cat", "dog")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, for files of any size."""
    monkeypatch.setenv("MSCN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(coco_cache, "SMALLEST", 0)
    return tmp_path / "cache" / "coco"


def written(folder: Path, whole: dict[str, Any], copies: int = 1) -> Path:
    """The file in COCO's layout with its images; `copies` of each record but for the ids."""
    records = whole["annotations"]
    for number in range(1, copies):
        whole["annotations"] = whole["annotations"] + [
            {**record, "id": number * 100_000 + place} for place, record in enumerate(records[:140])
        ]
    path = folder / "annotations" / "instances_train.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    (folder / "train").mkdir(exist_ok=True)
    for image in whole["images"]:
        (folder / "train" / image["file_name"]).touch()
    path.write_text(json.dumps(whole))
    return path


def parsed(path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The content without the cache."""
    with monkeypatch.context() as patch:
        patch.setattr(coco_cache, "SMALLEST", 2**60)
        return read_instances(path)


@pytest.mark.parametrize("seed", range(3))
def test_each_record_and_sample_is_equal(
    tmp_path: Path, cache: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Crowds, run lengths, polygons, missing keys, text for numbers, and other keys of the file."""
    whole = content(seed, [] if seed == 2 else ODD)
    whole |= {"info": {"a": [1.5, None, "é\ud83d\ude00"]}, "licenses": []}
    path = written(tmp_path, whole, copies=3)
    expected = parsed(path, monkeypatch)
    for _ in range(2):  # the first one writes
        found = read_instances(path)
        (folder,) = cache.glob(f"*-v{coco_cache.VERSION}")
        assert list(found) == list(expected) and found == expected
        ours, theirs = found["annotations"], expected["annotations"]
        assert isinstance(ours, AnnotationColumns) and list(ours) == list(theirs)
        for name, array in theirs.parts()[0].items():
            assert np.array_equal(ours.parts()[0][name], array, equal_nan=name == "areas"), name
        assert type(ours.numbers.values) is np.ndarray and not ours.boxes.flags.owndata
        samples, plain = (
            read_coco(path, tmp_path / "train", c, CLASSES) for c in (found, expected)
        )
        assert tuple(samples) == tuple(plain)
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        [*(f"{name}.npy" for name in theirs.parts()[0]), "checksums.json", "rest.json"]
    )


def test_polygons_are_not_copied_for_usual_records(tmp_path: Path) -> None:
    """Also if some have to be looked at one by one."""
    whole = content(0, [{"bbox": [1, 2, 0, 4]}, {"bbox": [30, 20, 20, 20]}])
    rle = {"size": [HEIGHT, WIDTH], "counts": [100, 50, HEIGHT * WIDTH - 150]}
    whole["annotations"][0] |= {"segmentation": rle, "iscrowd": 1}
    path = written(tmp_path, whole)
    found = read_instances(path)
    samples: Any = read_coco(path, tmp_path / "train", found, CLASSES)
    used, kept = samples._objects.numbers.values, found["annotations"].numbers.values
    assert np.shares_memory(used, kept)


def test_a_changed_file_has_a_folder_of_its_own(tmp_path: Path, cache: Path) -> None:
    path = written(tmp_path, content(0, []))
    read_instances(path)
    whole = content(1, [])
    found = read_instances(written(tmp_path, whole))
    assert (
        len(list(cache.glob(f"*-v{coco_cache.VERSION}"))) == 2
        and found["annotations"][7]["id"] == 8
    )
    assert found["annotations"][7]["bbox"] == whole["annotations"][7]["bbox"]


@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "checksums"])
def test_a_damaged_folder_is_written_again_with_one_line(
    tmp_path: Path, cache: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = written(tmp_path, content(0, []))
    before = list(read_instances(path)["annotations"])
    (folder,) = cache.glob(f"*-v{coco_cache.VERSION}")
    file = folder / "boxes.npy"
    if damage == "flip":
        raw = bytearray(file.read_bytes())
        raw[-3] ^= 64
        file.write_bytes(raw)
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "gone":
        file.unlink()
    else:
        (folder / "checksums.json").write_text("[]")
    caplog.clear()
    assert list(read_instances(path)["annotations"]) == before
    said = {record.getMessage() for record in caplog.records}
    assert len(said) == 1 and f"{folder} is damaged" in said.pop()
    caplog.clear()
    assert list(read_instances(path)["annotations"]) == before and not caplog.records


def test_a_cache_that_cannot_be_written_is_done_without(
    tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, content(0, []))
    expected = list(parsed(path, monkeypatch)["annotations"])
    cache.parent.write_text("a file in place of the folder")
    caplog.clear()
    assert list(read_instances(path)["annotations"]) == expected
    assert len(caplog.messages) == 1 and "set MSCN_CACHE to a different folder" in caplog.text
    cache.parent.unlink()

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(coco_cache.np, "save", full)
        caplog.clear()
        assert list(read_instances(path)["annotations"]) == expected
        assert len(caplog.messages) == 1 and "No space left on device" in caplog.text
    assert [p.name for p in cache.iterdir()] == [".lock"]


def test_what_is_not_kept(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small file, one of odd records, one that changes meanwhile, and one that is damaged."""
    whole = content(0, [])
    path = written(tmp_path, whole)
    parsed(path, monkeypatch)
    assert not cache.exists()
    for record in whole["annotations"]:
        record["id"] = f"n{record['id']}"
    path = written(tmp_path, whole)
    assert read_instances(path)["annotations"] == whole["annotations"]
    path.write_text(json.dumps(content(2, []))[:-40])
    with pytest.raises(Exception, match="truncated; restore it"):
        read_instances(path)
    path = written(tmp_path, content(3, []))

    def parse() -> dict[str, Any]:
        found = parsed(path, monkeypatch)
        os.utime(path, (1, 1))
        return found

    coco_cache.kept(path, parse)
    assert [p.name for p in cache.iterdir()] == [".lock"]


def test_refused_records_are_refused_from_the_cache_too(tmp_path: Path) -> None:
    written(tmp_path, content(0, [BAD[6], BAD[0]]))
    said = []
    for _ in range(2):
        with pytest.raises(Exception) as error:
            open_sets([f"coco:{tmp_path}:train"])
        said.append(str(error.value))
    assert said[0] == said[1] and "reach a million pixels" in said[0]


def test_others_may_read_the_folder_if_they_may_read_the_cache(tmp_path: Path, cache: Path) -> None:
    cache.mkdir(parents=True)
    cache.chmod(0o755)
    read_instances(written(tmp_path, content(0, [])))
    (folder,) = cache.glob(f"*-v{coco_cache.VERSION}")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755


def test_of_processes_that_start_together_one_parses(tmp_path: Path, cache: Path) -> None:
    path = written(tmp_path, content(0, ODD), copies=3)
    context = multiprocessing.get_context("fork")
    barrier, queue = context.Barrier(3), context.Queue()
    processes = [context.Process(target=_together, args=(path, barrier, queue)) for _ in range(3)]
    for process in processes:
        process.start()
    found = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert sum(count for count, _ in found) == 1
    assert found[0][1] == found[1][1] == found[2][1]


def _together(path: Path, barrier: Any, queue: Any) -> None:
    counts = []

    def parse() -> dict[str, Any]:
        counts.append(1)
        with path.open() as file:
            whole: dict[str, Any] = json.load(file)
        return {**whole, "annotations": AnnotationColumns(whole["annotations"])}

    barrier.wait(60)
    found = coco_cache.kept(path, parse)
    queue.put((len(counts), json.dumps(list(found["annotations"]))))
