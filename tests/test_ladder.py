"""benchmarks/ladder.py: runs what is missing, appends rows, reports the right numbers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from benchmarks.ladder import (
    claim_run,
    is_trained,
    main,
    parse,
    plan_runs,
    recipe_sha256,
    run_folder,
)
from benchmarks.ladder_report import (
    READING,
    compared_with,
    differences,
    published,
    report_lines,
    write_report,
)
from pretrain.common.config import load_config
from pretrain.common.errors import InputError
from pretrain.defaults import get_defaults

SMALL = (
    "BACKBONE.NAME tiny_resnet VIEWS.SIZE 16 MASK.GRID_SIZE 4 SOLVER.BATCH_SIZE 8"
    " SOLVER.MAX_STEPS 2 SOLVER.WARMUP_STEPS 1"
    " DATALOADER.NUM_WORKERS 0 PRECISE_BN.IMAGES 16 PRECISE_BN.BATCH_SIZE 8"
    " KNN.TRAIN_LIMIT 0 KNN.TEST_LIMIT 0 KNN.K 3"
)
FILTERS = ("off", "on")


@pytest.fixture
def suite(tmp_path: Path) -> tuple[list[str], list[str]]:
    """Options and overrides of a suite of two entries on 40 images of noise in 2 classes."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for number in range(40):
            path = tmp_path / "data" / split / f"c{number % 2}" / f"{number:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
    file = tmp_path / "suite.yaml"
    file.write_text(
        "PRETRAIN:\n"
        "  - {name: one, config: simclr_r18_tiny100.yaml}\n"
        "  - {name: two, config: mscn_r18_tiny100.yaml, overrides: [MASK.NOISE, none]}\n"
    )
    train, val = f"folder:{tmp_path}/data:train", f"folder:{tmp_path}/data:val"
    sets = f"DATASETS.TRAIN {train} DATASETS.KNN_TRAIN {train} DATASETS.KNN_TEST {val}".split()
    options = ["--suite", str(file), "--results", str(tmp_path / "rows.jsonl")]
    return [*options, "--output", str(tmp_path / "runs"), "--seeds", "2"], [*sets, *SMALL.split()]


def test_runs_what_is_missing_and_reports(
    suite: tuple[list[str], list[str]], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    options, overrides = suite
    assert main([*options, "--minutes", "0", *overrides]) == 0  # the first run is always started
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [(row["name"], row["seed"]) for row in rows] == [("one", 0)]
    assert main([*options, "--minutes", "9", *overrides]) == 0
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    found = [(row["name"], row["seed"]) for row in rows]
    assert found == [("one", 0), ("two", 0), ("one", 1), ("two", 1)], "seeds in the outer loop"
    assert main([*options, "--minutes", "9", *overrides]) == 0
    assert "4 of 4 runs are in" in capsys.readouterr().out
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 4
    keys = {
        f"{w}{c}/{s}/{f}"
        for w in ("knn20", "linear")
        for c in ("", "_gray")
        for s in ("raw", "precise")
        for f in FILTERS
    }
    assert all(keys <= set(row["metrics"]) for row in rows)
    assert all(0 <= row["metrics"][key] <= 100 for row in rows for key in keys)
    assert [row["views_per_image"] for row in rows[:2]] == [2, 3]
    assert [row["filter_wanted"] for row in rows[:2]] == [False, True]
    assert rows[1]["views_seen"] == 48 and rows[1]["hardware"]["device"] and rows[1]["environment"]
    assert main([*options, "--report", str(tmp_path / "report" / "small")]) == 0
    text = (tmp_path / "report" / "small.md").read_text()
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 3 and all(len({line.count("|") for line in t}) == 1 for t in tables)
    assert "| two | 3 |" in text and "](small.svg)" in text
    assert text.index("| one |") < text.index("| two |"), "in the suite's order"
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[::-1]))
    assert main([*options, "--report", str(tmp_path / "report" / "small")]) == 0
    assert (tmp_path / "report" / "small.md").read_text() == text, "whatever the rows' order"
    assert (tmp_path / "report" / "small.svg").read_text().startswith("<?xml")


def test_training_and_probing_may_be_two_calls(
    suite: tuple[list[str], list[str]], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    options, overrides = suite
    rows = tmp_path / "rows.jsonl"
    assert main([*options, "--only", "probe", "--minutes", "9", *overrides]) == 0
    assert not rows.exists(), "nothing is trained yet"
    assert main([*options, "--only", "train", "--minutes", "0", *overrides]) == 0
    assert not rows.exists()
    (trained,) = [path.parent for path in (tmp_path / "runs").rglob("checkpoint.pth")]
    before = (trained / "checkpoint.pth").read_bytes()
    wanted_only = ["--only", "probe", "--wanted-only", "--minutes", "9"]
    assert main([*options, *wanted_only, *overrides]) == 0
    (row,) = [json.loads(line) for line in rows.read_text().splitlines()]
    assert (row["name"], row["seed"]) == ("one", 0) and row["pretrain_commit"]
    assert {key.partition("/")[2] for key in row["metrics"]} == {"precise/off"}
    assert {"linear/precise/off", "linear_gray/precise/off"} < set(row["metrics"])
    assert (trained / "checkpoint.pth").read_bytes() == before, "it is not trained again"
    capsys.readouterr()
    assert main([*options, "--only", "train", "--minutes", "9", *overrides]) == 0
    assert "1 of 4 runs" in capsys.readouterr().out and len(rows.read_text().splitlines()) == 1
    assert main([*options, "--wanted-only", "--minutes", "9", *overrides]) == 0
    assert len(rows.read_text().splitlines()) == 4


def test_a_run_that_another_call_has_taken_is_left_to_it(
    suite: tuple[list[str], list[str]], tmp_path: Path
) -> None:
    options, overrides = suite
    args = parse([*options, "--only", "train", *overrides])
    runs = plan_runs(args)
    claim = claim_run(runs[0], args)
    assert claim is not None and claim_run(runs[0], args) is None
    with claim:
        assert main([*options, "--only", "train", "--minutes", "9", *overrides]) == 0
    trained = {path.parent.name for path in (tmp_path / "runs").rglob("checkpoint.pth")}
    assert trained == {run_folder(run, args).name for run in runs[1:]}
    with claim_run(runs[0], args):
        assert not is_trained(runs[0], args) and is_trained(runs[1], args)


def test_held_out_images_are_not_trained_on(
    suite: tuple[list[str], list[str]], tmp_path: Path
) -> None:
    options, overrides = suite
    assert main([*options, "--minutes", "0", "--held-out", "0.2", *overrides]) == 0
    row = json.loads((tmp_path / "rows.jsonl").read_text())
    assert row["held_out"] == 0.2
    assert row["overrides"][-2:] == ["DATASETS.LIMIT_PER_CLASS", "16"]  # of 20 in each class


def test_a_recipe_is_told_by_what_it_changes() -> None:
    def sha(*overrides: str) -> str:
        return recipe_sha256(load_config("mscn_demo.yaml", get_defaults(), overrides))

    assert (
        sha()
        == sha("SEED", "3")
        == sha("LOG.EVERY_STEPS", "7")
        == sha("CHECKPOINT.EVERY_EPOCHS", "2")
    )
    assert sha() != sha("MASK.RATIO", "(0.3,)") != sha("MASK.RATIO", "(0.4,)")
    default = str(get_defaults().SOLVER.CLIP_NORM)
    assert sha() == sha("SOLVER.CLIP_NORM", default), "a key at its default is not a change"


def row(name: str, seed: int, linear: float, knn: float, **changes: object) -> dict:
    metrics = {"linear/precise/on": linear, "knn20/precise/on": knn, "linear/raw/on": 1.0}
    costs = {"images_seen": 10, "views_seen": 20, "pretrain_seconds": 5.0, "gpu_seconds": 0.0}
    facts = {"filter_wanted": True, "views_per_image": 2, **costs}
    return {"name": name, "seed": seed, "metrics": metrics, **facts, **changes}


def test_differences_have_students_interval_whatever_the_seeds() -> None:
    below = [row("step_1", seed, value, 0.0) for seed, value in enumerate((10.0, 14.0, 12.0))]
    test = stats.ttest_ind((13.0, 16.0, 16.0), (10.0, 14.0, 12.0))
    low, high = test.confidence_interval(0.95)
    expected = {"step_2": f"+3.0 ± {(high - low) / 2:.1f} (step_1, not resolved)"}
    for first_seed in (0, 1):
        values = enumerate((13.0, 16.0, 16.0), first_seed)
        above = [row("step_2", seed, value, 0.0) for seed, value in values]
        assert differences({"step_1": below[::-1], "step_2": above}, "linear") == expected
    assert differences({"step_1": below, "step_2": above[:1]}, "linear") == {}, "a single seed"
    flat = {name: [row(name, seed, 9.0, 0.0) for seed in range(3)] for name in ("step_1", "step_2")}
    assert differences(flat, "linear") == {"step_2": "+0.0 (step_1, not resolved)"}, "no spread"


def test_all_rows_tell_the_spread() -> None:
    """A third row takes part, and one interval is as wide as the other."""
    rng = np.random.default_rng(0)
    values = {f"step_{step}": rng.normal(10.0 * step, 1.0, 3) for step in range(3)}
    rows = {
        n: [row(n, seed, v, 0.0) for seed, v in enumerate(found)] for n, found in values.items()
    }
    std = math.sqrt(sum(found.var(ddof=1) for found in values.values()) / 3)
    reach = stats.t.ppf(0.975, 6) * std * math.sqrt(2 / 3)
    found = differences(rows, "linear")
    assert all(f"± {reach:.1f} (" in text and "resolved" in text for text in found.values())
    assert list(found) == ["step_1", "step_2"]


def test_two_seeds_resolve_nothing() -> None:
    rows = {
        "final": [row("final", seed, 10.0 + seed, 0.0) for seed in range(2)],
        "other": [row("other", seed, 20.0 + 1.01 * seed, 0.0) for seed in range(2)],
    }
    assert differences(rows, "linear")["other"] == "+10.0 ± 3.1 (final, not resolved)"


def test_verdicts_are_corrected_for_being_many() -> None:
    """A difference whose interval alone leaves out 0 is resolved by itself, not among twelve."""
    rows = {"final": [row("final", seed, 0.0, 0.0) for seed in range(3)]}
    rows["leads"] = [row("leads", seed, 5.0 + seed, 0.0) for seed in range(3)]
    assert differences(rows, "linear")["leads"].endswith("(final, resolved)")
    for number in range(11):
        none = [row(f"none_{number}", seed, (-1.0) ** seed, 0.0) for seed in range(3)]
        rows[f"none_{number}"] = none
    rows["sure"] = [row("sure", seed, 9.0 + 0.1 * seed, 0.0) for seed in range(3)]
    found = differences(rows, "linear")
    assert found["leads"] == "+6.0 ± 2.5 (final, not resolved)"
    assert found["sure"] == "+9.1 ± 0.2 (final, resolved)"
    lines = report_lines(rows, "x.svg")
    assert READING in lines and any(found["sure"] in line for line in lines)


def test_gray_is_a_column_of_its_own_where_all_rows_have_it() -> None:
    rows = {"final": [row("final", seed, 40.0 + seed, 30.0) for seed in range(2)]}
    assert not any("gray" in line for line in report_lines(rows, "x.svg"))
    for seed, each in enumerate(rows["final"]):
        each["metrics"] |= {"linear_gray/precise/on": 10.0 + seed, "knn20_gray/precise/on": 5.0}
    (line,) = [line for line in report_lines(rows, "x.svg") if line.startswith("| final | 2 |")]
    assert (
        line == "| final | 2 | 40.5 ± 0.7 |  | 30.0 ± 0.0 |  | 10.5 ± 0.7 |  | 5.0 ± 0.0 |  | 2 |"
    )


def test_what_a_row_is_compared_with() -> None:
    names = ["step_0", "step_1", "crop_only"]
    assert compared_with("step_0", names) is None and compared_with("step_1", names) == "step_0"
    assert compared_with("crop_only", names) == "step_3"
    assert compared_with("ratio_030", ["final", "ratio_030"]) == "final"
    assert compared_with("final", ["final", "ratio_030"]) is None


def test_published_numbers_are_the_articles() -> None:
    """The ladder's table in arXiv 2206.07700; derived ones by its stated differences."""
    expected = [None, 30.2, 31.0, 40.0, 48.2, 53.6, 63.0, 65.1, 65.6, 67.4]
    assert [published(f"step_{step}") for step in range(10)] == expected
    assert published("crop_only") == 33.5
    assert (published("no_mask"), published("plain_mask")) == (66.4, 62.2)
    assert published("no_mask_2views") is None and published("final") is None


def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(InputError, match="has no rows"):
        write_report(tmp_path / "none.jsonl", tmp_path / "out")
    damaged = tmp_path / "rows.jsonl"
    damaged.write_text('{"name": "a"}\n{"na')
    assert main(["--report", str(tmp_path / "out"), "--results", str(damaged)]) == 2
    assert f"error: {damaged}:2 is not JSON" in capsys.readouterr().err
    assert main(["--held-out", "1.5"]) == 2 and main(["--seeds", "0"]) == 2
    assert main(["--shard", "2/2"]) == main(["--shard", "1"]) == 2


def test_an_entrys_change_outlives_a_change_of_scale() -> None:
    plan = plan_runs(parse(["--suite", "ablations_tiny100.yaml", "MASK.GRID_SIZE", "4"]))
    sizes = {run["name"]: run["cfg"].MASK.GRID_SIZE for run in plan}
    assert sizes["final"] == 4 and sizes["grid_16"] == 16


def test_a_plan_names_every_entry_and_seed() -> None:
    runs = plan_runs(parse(["--suite", "ladder_tiny100.yaml", "--seeds", "2"]))
    assert len(runs) == 32 and len({(run["name"], run["seed"]) for run in runs}) == 32
    assert len({run["sha256"] for run in runs}) == 16
