"""Records are validated when made, written and read; errors name the file and the field."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from pretrain.common.errors import InputError
from transfer.results.record import SCHEMA, read_record, validate, write_record

RECORD = {
    "schema": SCHEMA,
    "checkpoint": {
        "name": "mscn_resnet18_10ep",
        "sha256": "ab" * 32,
        "source": "mscn",
        "method": "mscn",
        "backbone": "resnet18",
        "pretrain_epochs": 10,
        "pretrain_seed": 0,
        "pretrain_config_sha256": None,
        "pretrain_seconds": 12.5,
        "pretrain_gpu_seconds": 0.0,
        "pretrain_views": 3000,
        "proof": "own",
    },
    "task": "knn",
    "dataset": "folder:digits:test",
    "protocol": {
        "name": "knn",
        "config_sha256": "cd" * 32,
        "engine": "transfer",
        "engine_version": "1",
        "overrides": ["SEED", "1"],
    },
    "trial": 0,
    "seed": 0,
    "metrics": {"knn20_top1": 51.25, "bbox/APs": None},
    "per_class": None,
    "artifacts": {"kernels": "kernels.png"},
    "started": "2026-01-01T00:00:00+00:00",
    "seconds": 3.5,
    "gpu_seconds": 0.0,
    "views_seen": 100,
    "hardware": {"device": "cpu"},
    "environment": {"torch": "2"},
    "status": "done",
}


def test_round_trip(tmp_path: Path) -> None:
    path = write_record(tmp_path / "trial_0", RECORD)
    assert path == tmp_path / "trial_0" / "record.json"
    assert read_record(path) == RECORD


def test_never_overwritten(tmp_path: Path) -> None:
    write_record(tmp_path, RECORD)
    with pytest.raises(InputError, match="never overwritten"):
        write_record(tmp_path, RECORD)


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("schema", 99, "'schema' is 99"),
        ("checkpoint.sha256", "abc", "'checkpoint.sha256' must be 64 hexadecimal"),
        ("checkpoint.name", "", "'checkpoint.name' must be a text"),
        ("checkpoint.pretrain_views", -1, "'checkpoint.pretrain_views'"),
        ("protocol.overrides", "SEED 1", "'protocol.overrides' must be a list"),
        ("trial", True, "'trial'"),
        ("trial", 1.5, "'trial'"),
        ("seconds", float("nan"), "'seconds'"),
        ("metrics.knn20_top1", "51", "'metrics.knn20_top1'"),
        ("metrics.knn20_top1", float("inf"), "'metrics.knn20_top1'"),
        ("metrics", {}, "'metrics'"),
        ("per_class", {"AP": {"cat": "x"}}, "'per_class.AP.cat'"),
        ("artifacts.kernels", "../k.png", "'artifacts.kernels'"),
        ("artifacts.kernels", "/k.png", "'artifacts.kernels'"),
        ("hardware", None, "'hardware' must be an object"),
        ("status", "perhaps", "'status' must be one of"),
        ("checkpoint.proof", "believed", "'checkpoint.proof' must be one of own, converted"),
    ],
)
def test_malformed_field_is_named(key: str, value: object, message: str) -> None:
    record = copy.deepcopy(RECORD)
    *parents, last = key.split(".")
    target = record
    for parent in parents:
        target = target[parent]
    target[last] = value
    with pytest.raises(InputError, match=message) as error:
        validate(record, "some/record.json")
    assert str(error.value).startswith("some/record.json")
    assert "\n" not in str(error.value)


def test_missing_field_is_named() -> None:
    record = {**RECORD, "protocol": {"name": "knn"}}
    with pytest.raises(InputError, match="'protocol.config_sha256' is missing"):
        validate(record)


def test_unreadable_files(tmp_path: Path) -> None:
    torn = tmp_path / "torn.json"
    torn.write_text(json.dumps(RECORD)[:50])
    with pytest.raises(InputError, match="torn.json: not JSON"):
        read_record(torn)
    with pytest.raises(InputError, match="absent.json: cannot be read"):
        read_record(tmp_path / "absent.json")
    for number, text in enumerate(("[" * 100000, "9" * 5000, '{"schema": 1')):
        (tmp_path / f"{number}.json").write_text(text)
        with pytest.raises(InputError, match=f"{number}.json: not JSON"):
            read_record(tmp_path / f"{number}.json")
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(InputError, match="a result record is a JSON object"):
        read_record(tmp_path / "list.json")


def old_record() -> dict:
    """A record as schema 1 wrote it."""
    checkpoint = {k: v for k, v in RECORD["checkpoint"].items() if k != "proof"}
    return {**copy.deepcopy(RECORD), "schema": 1, "checkpoint": checkpoint}


def test_older_schemas_are_read(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text(json.dumps(old_record()))
    record = read_record(path)
    assert record["schema"] == SCHEMA and record["checkpoint"]["proof"] is None
    rest = {**RECORD, "checkpoint": {**RECORD["checkpoint"], "proof": None}}
    assert record == rest and json.loads(path.read_text())["schema"] == 1
    random = old_record()
    random["checkpoint"]["source"] = "random"
    path.write_text(json.dumps(random))
    assert read_record(path)["checkpoint"]["proof"] == "random"


@pytest.mark.parametrize("schema", [0, 3, True, "1", None, [1]])
def test_other_schemas_are_refused(tmp_path: Path, schema: object) -> None:
    path = tmp_path / "record.json"
    path.write_text(json.dumps({**old_record(), "schema": schema}))
    with pytest.raises(InputError, match="'schema'"):
        read_record(path)


def test_a_malformed_old_record_is_named(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text(json.dumps({**old_record(), "checkpoint": None}))
    with pytest.raises(InputError, match="'checkpoint' must be an object"):
        read_record(path)


def test_committed_records_are_read() -> None:
    """The measured results in docs/ were written by schema 1."""
    found = list((Path(__file__).parents[3] / "docs" / "results").rglob("record.json"))
    assert found and all(read_record(path)["schema"] == SCHEMA for path in found)


SPLIT = {"images": 9, "objects": None, "classes": 3, "fingerprint": "ef" * 32}


def test_the_data_may_be_unknown_and_is_checked_where_it_is_known() -> None:
    validate({**RECORD, "data": None})
    good = {"train": SPLIT, "test": {**SPLIT, "objects": 12}, "in_both": None}
    validate({**RECORD, "data": good})
    for field, broken in (
        ("data", [1]),
        ("data.test", {**good, "test": 3}),
        ("data.train.fingerprint", {**good, "train": {**SPLIT, "fingerprint": "x"}}),
        ("data.train.images", {**good, "train": {**SPLIT, "images": -1}}),
        ("data.in_both", {**good, "in_both": "many"}),
        ("data.in_both", {"train": SPLIT, "test": SPLIT}),
    ):
        with pytest.raises(InputError, match=f"record: field '{field}' "):
            validate({**RECORD, "data": broken})
