"""Flags of the report, differences of protocols, published rows, broken artifacts."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from pretrain.common.config import dump_yaml, find_config, load_config
from transfer.classification.defaults import get_defaults
from transfer.detection.config import changed, protocol_name, protocol_sha256
from transfer.detection.defaults import make_defaults
from transfer.report.configs import (
    SHIPPED_FOLDERS,
    changed_keys,
    difference,
    learning_rate,
    left_to_user,
    recorded,
)
from transfer.report.csv_and_latex import to_csv, to_latex
from transfer.report.flags import Flag, find_flags
from transfer.report.from_records import build_results
from transfer.report.markdown_and_terminal import to_markdown
from transfer.report.page.page import published_on_page
from transfer.report.published import FILE, published_rows
from transfer.report.rows_columns_cells import Results
from transfer.results.own_data import task_name
from transfer.results.read_records import read_records

Writer = Callable[..., Path]
CONFIGS = Path(__file__).parents[3] / "configs"


def results_of(folder: Path) -> Results:
    return build_results(read_records([folder]).files)


def flags_of(folder: Path) -> str:
    return "\n".join(map(str, find_flags(results_of(folder))))


def all_flags(folder: Path) -> list[Flag]:
    return [flag for line in find_flags(results_of(folder)) for flag in line.flags]


def test_a_column_has_one_line(tmp_path: Path, write_run: Writer) -> None:
    for name, value in (("a", 12.0), ("b", 13.0), ("zero", 20.0)):
        method = "random" if name == "zero" else "simclr"
        write_run(name, "detection", {"bbox/AP": value}, method=method, status="shortened")
        write_run(name, "linear", {"top1": value}, method=method)
    linear, detection = find_flags(results_of(tmp_path))
    assert (linear.column, linear.kinds) == ("linear_photos", "too few trials")
    assert detection.kinds == "shortened, below the random initialisation (2 times), too few trials"
    assert str(detection).startswith("detection_photos: shortened schedule or data: ")
    assert str(detection).count(" · ") == len(detection.flags) - 1 == 3


def test_clean_results_raise_no_flag(tmp_path: Path, write_run: Writer) -> None:
    for trial in range(3):
        write_run("a", "detection", {"bbox/AP": 40.0 + trial}, trial)
        write_run("zero", "detection", {"bbox/AP": 20.0 + trial}, trial, method="random")
    accuracy = {"knn20_top1": {name: 50.0 for name in "abcde"}}
    write_run("a", "knn", {"knn20_top1": 50.0}, per_class=accuracy)
    assert flags_of(tmp_path) == ""


def test_accuracies_that_few_images_decide(tmp_path: Path, write_run: Writer) -> None:
    """9 of 100 images wrong, or right, are too few; 10 are enough, and APs are not counts."""
    for name, right in (("a", 91), ("b", 90), ("c", 9), ("d", 100)):
        scores = (np.arange(100) < right) * 100.0
        write_run(name, "linear", {"top1": 0.0}, pictures=False, scores=scores)
        write_run(name, "detection", {"bbox/AP": 0.0}, pictures=False, scores=scores)
    (flag,) = [f for f in all_flags(tmp_path) if "may be too narrow" in f.text]
    assert "fewer than 10 test images" in flag.text and flag.column == "linear_photos"
    assert flag.text.endswith(
        "a top1 91.0 of 100 images, c top1 9.0 of 100 images, " "d top1 100.0 of 100 images"
    )


def test_detection_below_the_random_row(tmp_path: Path, write_run: Writer) -> None:
    write_run("a", "detection", {"bbox/AP": 12.0})
    write_run("zero", "detection", {"bbox/AP": 20.0}, method="random")
    assert "detection_photos: a: bbox/AP 12.0 is below the random" in flags_of(tmp_path)


def test_flags_tell_close_numbers_apart(tmp_path: Path, write_run: Writer) -> None:
    write_run("a", "detection", {"bbox/AP": 0.021})
    write_run("zero", "detection", {"bbox/AP": 0.043}, method="random")
    assert "bbox/AP 0.02 is below the random initialisation (zero, 0.04)" in flags_of(tmp_path)


@pytest.mark.parametrize("value, far", [(53.3, False), (49.0, True), (55.0, True)])
def test_msra_far_from_its_number(
    tmp_path: Path, write_run: Writer, value: float, far: bool
) -> None:
    """Its records are of the protocol that the baseline's config names; others have no number."""
    config = load_config(find_config("voc_supervised_msra.yaml").as_posix(), make_defaults())
    name = protocol_name(config, "voc_supervised_msra.yaml")
    msra = {"source": "msra", "backbone": "resnet50"}
    options = {"protocol": name, "method": "supervised"}
    write_run("R-50", "detection", {"bbox/AP": value}, checkpoint=msra, **options)
    torchvision = {"source": "torchvision:resnet50", "backbone": "resnet50"}
    write_run("imagenet", "detection", {"bbox/AP": 40.0}, checkpoint=torchvision, **options)
    flags = flags_of(tmp_path)
    assert (" · R-50: AP" in flags and "far from the 53.5" in flags) == far
    assert "imagenet: AP" not in flags


def test_knn_at_chance(tmp_path: Path, write_run: Writer) -> None:
    for name, value in (("bad", 20.5), ("good", 45.0)):
        accuracy = {"knn20_top1": {c: value for c in "abcde"}}
        write_run(name, "knn", {"knn20_top1": value}, per_class=accuracy)
    # 23 % of 60 images: above chance, but not by what 60 images can say
    right = np.r_[np.ones(14), np.zeros(46)] * 100
    accuracy = {"knn20_top1": {c: 23.3 for c in "abcde"}}
    write_run("few", "knn", {"knn20_top1": 0}, per_class=accuracy, scores=right)
    flags = flags_of(tmp_path)
    assert "knn_photos: bad: knn20_top1 20.5 is at chance (20.0)" in flags
    assert " · few: knn20_top1 23.3 is at chance" in flags and "good" not in flags


def test_proof(tmp_path: Path, write_run: Writer) -> None:
    write_run("theirs", "knn", {"knn20_top1": 50.0}, checkpoint={"proof": "none"})
    write_run("old", "knn", {"knn20_top1": 50.0}, checkpoint={"proof": None})
    for task, proof in (("knn", None), ("linear", "own")):  # one record says it for both
        write_run("both", task, {"top1": 50.0}, checkpoint={"proof": proof})
    flags = flags_of(tmp_path)
    assert "converted without proof: theirs;" in flags and "schema 1): old" in flags
    assert "both" not in flags.partition("converted without proof")[2]


def test_missing_configs_are_counted(tmp_path: Path, write_run: Writer) -> None:
    for name in "ab":
        path = write_run(name, "linear", {"top1": 40.0}, protocol=name, config={"A": 1})
        (path.parent / "config.yaml").unlink()
    notes = [note for note in results_of(tmp_path).notes if "config" in note]
    assert len(notes) == 1 and notes[0].startswith("config: 2 files named by records not found")


def test_few_trials_shortened_and_overrides(tmp_path: Path, write_run: Writer) -> None:
    protocol = {
        "name": "voc_mscn",
        "config_sha256": "ab" * 32,
        "engine": "torchvision",
        "engine_version": "1",
        "overrides": ["SOLVER.IMS_PER_BATCH 8", "DATALOADER.NUM_WORKERS 0"],
    }
    write_run("a", "detection", {"bbox/AP": 40.0}, protocol=protocol["name"])
    path = tmp_path / "runs/detection/voc_mscn/a/trial_0/record.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "protocol": protocol, "status": "shortened"}))
    flags = flags_of(tmp_path)
    assert "too few trials for a claim about a checkpoint (at least 3): a 1" in flags
    assert " · shortened schedule or data: a (trial 0)" in flags
    assert "differs from the config of this name: SOLVER.IMS_PER_BATCH 8" in flags
    assert "NUM_WORKERS" not in flags
    assert not results_of(tmp_path).protocols[0].published  # another protocol than the published


def test_many_rows_ask_for_five_trials(tmp_path: Path, write_run: Writer) -> None:
    for name, value in zip("abcd", (40.0, 41.0, 42.0, 43.0)):
        for trial in range(3 if name == "a" else 5):
            write_run(name, "linear", {"top1": value + trial / 10}, trial=trial)
    asked = "linear_photos: 4 rows are compared, some with 3 trials"
    assert asked in flags_of(tmp_path)
    for trial in (3, 4):
        write_run("a", "linear", {"top1": 40.0 + trial / 10}, trial=trial)
    assert "rows compete" not in flags_of(tmp_path)


def test_an_edited_copy_of_a_config_is_another_protocol(tmp_path: Path, write_run: Writer) -> None:
    """Same file name, no override: the record's own config says what ran."""
    shipped = yaml.safe_load(dump_yaml(load_config("voc_mscn.yaml", make_defaults())))
    write_run("a", "detection", {"bbox/AP": 40.0}, protocol="voc_mscn", config=shipped)
    assert results_of(tmp_path).protocols[0].published
    assert "differs from the config of this name" not in flags_of(tmp_path)
    edited = {**shipped, "SOLVER": {**shipped["SOLVER"], "MAX_ITER": 100, "IMS_PER_BATCH": 2}}
    edited["MODEL"] = {**shipped["MODEL"], "WEIGHTS": "a.pth"}  # no part of a protocol
    path = tmp_path / "runs/detection/voc_mscn/a/trial_0/config.yaml"
    path.write_text(yaml.safe_dump(edited))
    assert (
        "voc_mscn, fixed lr: differs from the config of this name: SOLVER.IMS_PER_BATCH 2 "
        "(shipped: 16), SOLVER.MAX_ITER 100 (shipped: 24000)" in flags_of(tmp_path)
    )
    assert not results_of(tmp_path).protocols[0].published


def test_data_that_a_config_asks_for_is_no_change(tmp_path: Path, write_run: Writer) -> None:
    """`knn.yaml` names no data set: its user's override is what it is for."""
    path = write_run("a", "knn", {"knn20_top1": 40.0}, protocol="knn")
    record = json.loads(path.read_text())
    words = "DATASETS.TRAIN folder:a:train DATASETS.TEST folder:a:val".split()
    for more, flagged in (([], False), (["PROTOCOL.IMAGE_SIZE", "64"], True)):
        record["protocol"]["overrides"] = words + more
        path.write_text(json.dumps(record))
        assert ("differs from the config of this name" in flags_of(tmp_path)) == flagged
    assert "config of this name: PROTOCOL.IMAGE_SIZE 64" in flags_of(tmp_path)
    assert not left_to_user("voc_mscn")


OWN = {
    "own_fpn": ("detection", {"bbox/AP": 40.0}, "voc", make_defaults),
    "own_mask_r18": ("detection", {"bbox/AP": 40.0}, "coco", make_defaults),
    "own_knn": ("knn", {"knn20_top1": 40.0}, "folder", get_defaults),
    "own_finetune": ("finetune", {"top1": 40.0}, "folder", get_defaults),
}


@pytest.mark.parametrize("name", OWN)
def test_own_data_is_the_task_and_no_change(tmp_path: Path, write_run: Writer, name: str) -> None:
    """In a run's record the data is in the config and among the overrides."""
    task, metrics, kind, defaults = OWN[name]
    data = f"{kind}:/home/me/shelves:"
    words = ["DATASETS.TRAIN", f"{data}train", "DATASETS.TEST", f"{data}val"]
    if task == "detection":
        words += ["TRANSFER.CLASSES", "('milk', 'tea')"]
    config = yaml.safe_load(dump_yaml(load_config(f"{name}.yaml", defaults(), words)))
    path = write_run("a", task, metrics, protocol=name, config=config, dataset=f"{data}val")
    record = json.loads(path.read_text())
    key = "PROTOCOL.TEMPERATURE" if task == "knn" else "SOLVER.MOMENTUM"  # kNN has no solver
    for more, flagged in (([], False), ([key, "0.5"], True)):
        record["protocol"]["overrides"] = words + more
        path.write_text(json.dumps(record))
        assert ("differs from the config of this name" in flags_of(tmp_path)) == flagged
    assert f"config of this name: {key} 0.5" in flags_of(tmp_path)
    (column,) = results_of(tmp_path).protocols
    assert column.label.startswith(f"shelves ({name})") and "[" not in column.label
    assert f"shelves ({name})" in to_markdown(results_of(tmp_path))


def test_own_data_sets_are_told_apart(tmp_path: Path, write_run: Writer) -> None:
    """They are named by the folder; two folders of one name by the data set's full name."""
    for number, data in enumerate(("a/shelves", "b/shelves", "birds")):
        for config in ("own_knn", "own_linear"):
            path = write_run("m", "knn", {"knn20_top1": 1.0}, protocol=f"{config}{number}")
            record = json.loads(path.read_text())
            record["protocol"]["name"], record["dataset"] = config, f"folder:{data}:val"
            path.write_text(json.dumps(record))
    labels = {column.label.partition(",")[0] for column in results_of(tmp_path).protocols}
    expected = {"birds ({})", "shelves ({}) [folder:a/shelves:val]"}
    expected.add("shelves ({}) [folder:b/shelves:val]")
    assert labels == {e.format(config) for e in expected for config in ("own_knn", "own_linear")}


def test_columns_of_one_own_data_set_say_what_differs(tmp_path: Path, write_run: Writer) -> None:
    """Not the data that all of them name."""
    words = "DATASETS.TRAIN {} DATASETS.TEST folder:birds:val"
    for number, (train, more) in enumerate((("a", ""), ("a", "PROTOCOL.RESIZE 64"), ("b", ""))):
        path = write_run("m", "knn", {"knn20_top1": 1.0}, protocol=f"own{number}")
        record = json.loads(path.read_text())
        record["protocol"]["name"], record["dataset"] = "own_knn", "folder:birds:val"
        record["protocol"]["overrides"] = [*words.format(train).split(), *more.split()]
        path.write_text(json.dumps(record))
    labels = [column.label.partition(", config")[0] for column in results_of(tmp_path).protocols]
    assert sorted(labels) == [
        "birds (own_knn) [DATASETS.TRAIN a",
        "birds (own_knn) [DATASETS.TRAIN a PROTOCOL.RESIZE 64",
        "birds (own_knn) [DATASETS.TRAIN b",
    ]
    for column in results_of(tmp_path).protocols:
        assert column.short == f"birds (own_knn) [config {column.config_sha256[:7]}]"


def test_a_task_named_by_its_user(tmp_path: Path, write_run: Writer) -> None:
    """By TRANSFER.PROTOCOL or a config file of one's own: no shipped data is claimed."""
    path = write_run("a", "detection", {"bbox/AP": 40.0}, protocol="my shelves")
    record = json.loads(path.read_text())
    data = ["DATASETS.TRAIN", "voc:x:train", "DATASETS.TEST", "voc:x:val"]
    for words, flag in (
        (["TRANSFER.PROTOCOL", "my shelves"], ""),
        ([], ""),
        (
            ["SOLVER.BASE_LR", "1.0"],
            "differs from the config of this name: SOLVER.BASE_LR 1.0",
        ),
    ):
        record["protocol"]["overrides"] = data + words
        path.write_text(json.dumps(record))
        found = [f.text for f in all_flags(tmp_path) if "config of this name" in f.text]
        assert found == ([flag] if flag else [])
    assert results_of(tmp_path).protocols[0].label == "my shelves"


@pytest.mark.parametrize(
    "dataset, name",
    [
        ("voc:/data/my boxes:test", "my boxes"),
        ("voc:my_boxes:trainval@10shot", "my_boxes"),
        ("coco:exports/run.v2:val", "run.v2"),
        ("coco:/data/exports/labels.json:/data/photos", "labels"),
        ("folder:birds:val", "birds"),
        ("folder:birds", "birds"),
        ("voc_2007_test", "voc_2007_test"),
        ("cifar10:test", "cifar10:test"),
    ],
)
def test_task_names(dataset: str, name: str) -> None:
    assert task_name(dataset) == name


def test_watching_a_run_leaves_it_in_its_column(tmp_path: Path, write_run: Writer) -> None:
    """Evaluations, pictures and the speed of cuDNN move no weight of a run."""
    shipped = load_config("voc_mscn.yaml", make_defaults())
    sha256 = protocol_sha256(shipped)
    for name, key, value in (
        ("a", "SEED", 0),
        ("b", "TEST.EVAL_PERIOD", 1000),
        ("c", "VIS_PERIOD", 20),
        ("d", "CUDNN_BENCHMARK", True),
        ("e", "TRANSFER.AMP_DTYPE", "bf16"),  # without mixed precision it has no effect
    ):
        config = changed(shipped, {key: value})
        path = write_run(
            name,
            "detection",
            {"bbox/AP": 40.0},
            protocol="voc_mscn",
            config=yaml.safe_load(dump_yaml(config)),
        )
        record = json.loads(path.read_text())
        record["protocol"].update(
            config_sha256=protocol_sha256(config), overrides=[key, str(value)]
        )
        path.write_text(json.dumps(record))
    (protocol,) = results_of(tmp_path).protocols
    assert protocol.config_sha256 == sha256 and protocol.published
    assert "differs from the config of this name" not in flags_of(tmp_path)


def test_published_rows_beside_an_unknown_config(tmp_path: Path, write_run: Writer) -> None:
    write_run("a", "detection", {"bbox/AP": 40.0}, protocol="voc_mscn")
    assert "voc_mscn: no config.yaml was kept" in flags_of(tmp_path)


def test_shipped_configs_are_their_own_protocol() -> None:
    """Configs as runs write them, for all shipped configs that have published numbers."""
    with FILE.open(encoding="utf-8") as stream:
        names = {name for line in csv.DictReader(stream) for name in line["configs"].split()}
    for name in names:
        folder, roles = next(
            i for i in SHIPPED_FOLDERS.items() if (CONFIGS / i[0] / f"{name}.yaml").is_file()
        )
        config = load_config(f"{folder}/{name}.yaml", roles.make_defaults())
        assert changed_keys(name, recorded(yaml.safe_load(dump_yaml(config)))) == {}, name
    other = recorded({"TRANSFER": {}, "SOLVER": {"MAX_ITER": 1}})
    assert changed_keys("my_own", other) == {} == changed_keys("voc_mscn", None)


def test_columns_say_how_they_differ(tmp_path: Path, write_run: Writer) -> None:
    fixed = {"SOLVER": {"LR_PER_256": [0.1], "EPOCHS": 100}, "PROTOCOL": {"NAME": "linear"}}
    swept = {**fixed, "SOLVER": {"LR_PER_256": [0.1, 1.0], "EPOCHS": 90}, "OUTPUT_DIR": "x"}
    write_run("a", "linear", {"top1": 40.0}, protocol="one", config=fixed)
    write_run("a", "linear", {"top1": 41.0}, protocol="two", config=swept)
    results = results_of(tmp_path)
    assert [p.label for p in results.protocols] == ["one, fixed lr", "two, swept lr"]
    (line,) = results.protocols[0].differs
    assert line == (
        "differs from two: SOLVER.EPOCHS 100 / 90; SOLVER.LR_PER_256 [0.1] / [0.1, 1.0]"
    ).replace("two:", "two, swept lr:")
    assert line in to_markdown(results) and "SOLVER.EPOCHS" in to_latex(results)
    write_run("a", "linear", {"top1": 41.0}, protocol="three")
    lines = results_of(tmp_path).protocols[0].differs
    assert any("from three: a config was not kept" in line for line in lines)


def test_learning_rates() -> None:
    sweep = recorded({"TRANSFER": {"LR_SWEEP": {"RATES": [0.01, 0.02]}}})
    assert learning_rate("detection", sweep, []) == "swept lr"
    assert learning_rate("detection", recorded({"TRANSFER": {}}), []) == "fixed lr"
    assert learning_rate("detection", None, [Path("x/lr_sweep.json")]) == "swept lr"
    assert learning_rate("knn", sweep, []) == "" and learning_rate("linear", None, []) == ""
    keys = [key for key in make_defaults().SOLVER if key not in ("AMP", "LR_SCHEDULER_NAME")]
    numbers = [key for key in keys if isinstance(make_defaults().SOLVER[key], (int, float))]
    many = difference(
        recorded({"MODEL": {}, "SOLVER": {key: 77 for key in numbers}}), recorded({"MODEL": {}})
    )
    assert len(many) == 9 and many[-1].startswith("and ") and many[-1].endswith(" more keys")


def test_published_rows_stand_apart(tmp_path: Path, write_run: Writer) -> None:
    write_run("mine", "detection", {"bbox/AP": 57.2, "bbox/AP50": 82.0}, protocol="voc_mscn")
    results = results_of(tmp_path)
    text = to_markdown(results)
    assert "MoCo v2 800ep (published) | 57.4 | 82.5 | 5 |" in text
    assert "facebookresearch/moco" in text and "published" in to_latex(results)
    lines = list(csv.DictReader(to_csv(results).splitlines()))
    theirs = [line for line in lines if line["unit"] == "published"]
    assert theirs and all(line["source"] and not line["sha256"] for line in theirs)
    assert [line["checkpoint"] for line in lines if line["unit"] == "checkpoint"] == ["mine"] * 2
    assert not published_rows("voc_mscn_10pct") and not published_rows("linear_imagenet")


def test_two_sources_of_one_method_are_two_rows(tmp_path: Path, write_run: Writer) -> None:
    write_run("a", "detection", {"bbox/AP": 40.0, "segm/AP": 35.0}, protocol="coco_mscn")
    write_run("a", "detection", {"bbox/AP": 50.0}, protocol="voc_mscn")
    results = results_of(tmp_path)
    rows, sources = published_on_page(results)
    for protocol in results.protocols:
        for theirs in protocol.published:
            (row,) = (
                row
                for row in rows
                if (row.label, sources[row.source - 1]) == (theirs.label, theirs.source)
            )
            for metric, value in theirs.metrics.items():
                assert row.values[protocol.key, metric] == value


def test_the_published_file_is_of_shipped_configs() -> None:
    known, seen = {path.stem for path in CONFIGS.rglob("*.yaml")}, set()
    with FILE.open(encoding="utf-8") as stream:
        for line in csv.DictReader(stream):
            assert set(line["configs"].split()) <= known, line
            assert 0 < float(line["value"]) < 100 and line["source"] and line["method"]
            for config in line["configs"].split():  # one number per row and column of the page
                key = (
                    config,
                    *(line[k] for k in ("method", "pretrain_epochs", "metric", "source")),
                )
                assert key not in seen, line
                seen.add(key)


def test_broken_replicates_and_configs_are_noted(tmp_path: Path, write_run: Writer) -> None:
    """The numbers stay; the interval is then over trials alone."""
    right = np.random.default_rng(0).normal(50, 5, 40)
    for trial in range(3):
        path = write_run("a", "linear", {"top1": 0}, trial, scores=right + trial, config={"A": 1})
    (path.parent / "replicates.json").write_text("{")
    (path.parent.parent / "trial_0/config.yaml").write_text("a: [")
    results = results_of(tmp_path)
    summary = results.cell(results.checkpoints[0], results.protocols[0]).summaries["top1"]
    assert summary.covers == "trials" and summary.n == 3
    assert any("replicates.json: not a replicates file" in note for note in results.notes)
    assert any("config.yaml: config ignored" in note for note in results.notes)
    other = path.parent.parent / "trial_1/replicates.json"
    (path.parent / "replicates.json").write_text(other.read_text())
    assert any("from a different evaluation" in note for note in results_of(tmp_path).notes)
    (path.parent / "replicates.json").unlink()
    assert any("cannot be read" in note for note in results_of(tmp_path).notes)
