"""Records of several folders: copies, contradictions, malformed files."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import pytest

from pretrain.common.errors import InputError
from tests.transfer.results.test_record import RECORD
from transfer.results.read_records import read_records
from transfer.results.record import write_record


def _record(**changes: object) -> dict:
    return {**copy.deepcopy(RECORD), **changes}


def test_merges_folders_and_drops_copies(tmp_path: Path) -> None:
    first = write_record(tmp_path / "one/a", _record())
    write_record(tmp_path / "two/b", _record(trial=1, seed=1))
    shutil.copytree(tmp_path / "one", tmp_path / "two/copy")
    records = read_records([tmp_path / "one", tmp_path / "two", tmp_path])
    assert [file.record["trial"] for file in records.files] == [0, 1]
    assert len(records.notes) == 1 and "a copy of" in records.notes[0]
    assert records.files[0].artifact("kernels") == first.parent / "kernels.png"
    assert records.files[0].artifact("views") is None


def test_contradictions_are_refused_with_both_names(tmp_path: Path) -> None:
    one = write_record(tmp_path / "a", _record())
    two = write_record(tmp_path / "b", _record(metrics={"knn20_top1": 51.26}))
    with pytest.raises(InputError) as error:
        read_records([tmp_path])
    assert str(one) in str(error.value) and str(two) in str(error.value)


def test_a_shortened_run_is_no_copy_of_a_whole_one(tmp_path: Path) -> None:
    write_record(tmp_path / "a", _record())
    write_record(tmp_path / "b", _record(status="shortened"))
    with pytest.raises(InputError, match="contradict each other: .*; remove one"):
        read_records([tmp_path])


def test_a_repeat_with_equal_metrics_counts_once(tmp_path: Path) -> None:
    write_record(tmp_path / "a", _record())
    write_record(tmp_path / "b", _record(seconds=99.0))
    records = read_records([tmp_path])
    assert len(records.files) == 1 and "equal metrics" in records.notes[0]


def test_the_copy_with_its_artifacts_counts(tmp_path: Path) -> None:
    bare = write_record(tmp_path / "a", _record())
    whole = write_record(tmp_path / "b", _record())
    (whole.parent / "kernels.png").write_bytes(b"png")
    records = read_records([tmp_path])
    assert [file.path for file in records.files] == [whole]
    assert records.notes == [f"{bare}: a copy of {whole}, counted once"]


def test_linked_folders_are_read_once(tmp_path: Path) -> None:
    """Results of a large disk, linked into one folder; a loop of links ends."""
    path = write_record(tmp_path / "disk/a", _record())
    (tmp_path / "results").mkdir()
    (tmp_path / "results/linked").symlink_to(tmp_path / "disk", target_is_directory=True)
    (tmp_path / "disk/a/loop").symlink_to(tmp_path / "results", target_is_directory=True)
    (file,) = read_records([tmp_path / "results"]).files
    assert file.path.resolve() == path
    assert read_records([tmp_path]).notes == []


@pytest.mark.parametrize(
    "changes",
    [
        {"trial": 1},
        {"seed": 1},
        {"task": "linear"},
        {"dataset": "other"},
        {"protocol": {**_record()["protocol"], "config_sha256": "ef" * 32}},
        {"protocol": {**_record()["protocol"], "engine": "other"}},
        {"protocol": {**_record()["protocol"], "name": "other"}},
        {"checkpoint": {**_record()["checkpoint"], "name": "other"}},
        {"checkpoint": {**_record()["checkpoint"], "sha256": "cd" * 32}},
    ],
)
def test_other_identities_stand_side_by_side(tmp_path: Path, changes: dict) -> None:
    write_record(tmp_path / "a", _record())
    write_record(tmp_path / "b", _record(metrics={"knn20_top1": 1.0}, **changes))
    assert len(read_records([tmp_path]).files) == 2


def test_malformed_files_are_named_and_left_out(tmp_path: Path) -> None:
    write_record(tmp_path / "good", _record())
    for name, text in (("torn", '{"schema": 1,'), ("foreign", json.dumps({"a": 1}))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "record.json").write_text(text)
    (tmp_path / "newer").mkdir()
    (tmp_path / "newer/record.json").write_text(json.dumps(_record(schema=99)))
    (tmp_path / "newest/record.json").mkdir(parents=True)
    records = read_records([tmp_path])
    assert len(records.files) == 1
    assert "newer/record.json: field 'schema'" in records.notes.pop(1)
    assert "newest/record.json: cannot be read" in records.notes.pop(1)
    assert ["skipped" in note for note in records.notes] == [True, True]
    assert "foreign/record.json" in records.notes[0] and "torn/record.json" in records.notes[1]


def test_an_old_copy_of_a_record_counts_once(tmp_path: Path) -> None:
    """Schema 1 from one machine, schema 2 from a different one: the same run."""
    write_record(tmp_path / "a", _record())
    old = _record(schema=1)
    del old["checkpoint"]["proof"]
    (tmp_path / "b").mkdir()
    (tmp_path / "b/record.json").write_text(json.dumps(old))
    records = read_records([tmp_path])
    assert len(records.files) == 1 and "equal metrics" in records.notes[0]
    old["metrics"] = {"knn20_top1": 1.0}
    (tmp_path / "b/record.json").write_text(json.dumps(old))
    with pytest.raises(InputError, match="contradict"):
        read_records([tmp_path])


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="absent does not exist"):
        read_records([tmp_path / "absent"])
    with pytest.raises(InputError, match="no valid record.json below"):
        read_records([tmp_path])
