"""Pairs of rows, marks, methods and the comparison at equal cost, on records with known truth."""

from __future__ import annotations

import csv
import io
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pretrain.common.errors import InputError
from transfer.report.compare import compare_rows, compare_table
from transfer.report.cost import compute_rows
from transfer.report.csv_and_latex import to_csv, to_latex
from transfer.report.from_records import build_results
from transfer.report.markdown_and_terminal import to_markdown, to_terminal
from transfer.report.rows_columns_cells import Results
from transfer.report.run import write_report
from transfer.results.read_records import read_records
from transfer.results.statistics import BOTH, IMAGES

Writer = Callable[..., Path]


def results_of(folder: Path) -> Results:
    return build_results(read_records([folder]).files)


def images(seed: int, level: float, trial: int = 0) -> np.ndarray:
    """Scores of 300 images: hard ones are hard for every checkpoint."""
    hard = np.random.default_rng(0).normal(0, 20, 300)
    own = np.random.default_rng([seed, trial]).normal(0, 2, 300)
    return level + hard + own + np.random.default_rng([seed, trial, 1]).normal(0, 0.1)


def write_trials(
    write_run: Writer, name: str, seed: int, level: float, **facts: dict[str, float]
) -> None:
    """Three trials of a linear probe."""
    for trial in range(3):
        scores = images(seed, level, trial)
        write_run(name, "linear", {"top1": 0}, trial, pictures=False, scores=scores, **facts)


@pytest.fixture
def results(tmp_path: Path, write_run: Writer) -> Results:
    """Three checkpoints, three trials each: 60, 60.05 and 55 in truth, and one single trial."""
    for seed, (name, level) in enumerate((("a", 60.0), ("b", 60.05), ("c", 55.0)), 1):
        write_trials(write_run, name, seed, level)
    write_run("d", "linear", {"top1": 0}, pictures=False, scores=images(9, 70.0))
    write_run("d", "knn", {"knn20_top1": 0}, pictures=False, scores=images(9, 70.0))
    write_run("c", "knn", {"knn20_top1": 0}, pictures=False, scores=images(2, 55.0))
    return results_of(tmp_path)


def test_verdicts(results: Results) -> None:
    rows = {row.label: row for row in results.checkpoints}
    (pair,) = compare_rows(results, rows["a"], rows["c"])
    low, high = pair.found.estimate.interval()
    assert pair.verdict == "resolved" and low < 5 < high and high - low < 2
    assert pair.found.estimate.covers == BOTH and pair.trials.startswith("pooled SD")
    # The same numbers without shared images would say nothing: each one's own interval is wide
    cell = results.cell(rows["a"], pair.protocol)
    assert cell.summaries["top1"].high - cell.summaries["top1"].low > 4
    (pair,) = compare_rows(results, rows["a"], rows["b"])
    assert pair.verdict == "not resolved" and 0 < pair.found.detectable < 3


def test_single_trials(results: Results) -> None:
    """Images alone resolve kNN, which has no chance in it, and no claim about a trained head."""
    rows = {row.label: row for row in results.checkpoints}
    pairs = {pair.protocol.task: pair for pair in compare_rows(results, rows["d"], rows["c"])}
    assert pairs["knn"].verdict == "resolved" and pairs["knn"].found.estimate.covers == IMAGES
    assert pairs["linear"].verdict == "not resolved: one trial"
    header, lines = compare_table(results, rows["d"], rows["c"])
    assert header[4:8] == ["difference", "95 % interval", "verdict", "detectable"]
    assert lines[0][4].startswith("+15.") and " to " in lines[0][5]


def test_without_replicates_a_claim_is_of_these_images(tmp_path: Path, write_run: Writer) -> None:
    for name, value in (("a", 60.0), ("b", 50.0)):
        for trial in range(3):
            write_run(name, "linear", {"top1": value + 0.1 * trial * value / 50}, trial)
    results = results_of(tmp_path)
    (pair,) = compare_rows(results, *results.checkpoints)
    assert pair.verdict == "resolved: on these test images"


def test_trials_that_agree_exactly_are_no_proof(tmp_path: Path, write_run: Writer) -> None:
    """However large the difference is: without spread and images chance cannot be judged."""
    for name, value in (("a", 90.0), ("b", 10.0)):
        for trial in range(3):
            write_run(name, "linear", {"top1": value}, trial)
    results = results_of(tmp_path)
    (pair,) = compare_rows(results, *results.checkpoints)
    assert pair.verdict == "not resolved: no interval (the trials show no spread)"
    assert pair.found.estimate.interval() is None and not results.best[pair.protocol.key, "top1"]


def test_nothing_in_common(tmp_path: Path, write_run: Writer) -> None:
    write_run("a", "linear", {"top1": 1.0})
    write_run("b", "knn", {"knn20_top1": 1.0})
    results = results_of(tmp_path)
    with pytest.raises(InputError, match="no protocol in common"):
        compare_rows(results, *results.checkpoints)


def test_best_marks(results: Results) -> None:
    protocol = next(p for p in results.protocols if p.task == "linear")
    marked = [r.label for r in results.checkpoints if results.is_best(r, protocol, "top1")]
    assert marked == ["a", "b"]  # c is resolved below, d has one trial
    table = to_terminal(results)
    assert table.count("★") == 3 and "[5" in table and "i[" in table
    rows = list(csv.DictReader(io.StringIO(to_csv(results))))
    line = next(r for r in rows if r["checkpoint"] == "a" and r["metric"] == "top1")
    assert float(line["low95"]) < float(line["mean"]) < float(line["high95"])
    assert (line["interval_covers"], line["best"], line["unit"]) == (BOTH, "True", "checkpoint")


def test_a_method_beside_a_checkpoint(tmp_path: Path, write_run: Writer) -> None:
    """Seeds of pretraining are not paired with a checkpoint's trials, and kNN's one trial hides no
    spread between them."""
    for seed, level in enumerate((40.0, 46.0, 37.0)):
        facts = {"pretrain_seed": seed, "pretrain_config_sha256": "one"}
        options = {"method": "mscn", "pictures": False, "checkpoint": facts}
        write_run(f"m{seed}", "knn", {"knn20_top1": 0}, scores=images(seed, level), **options)
        write_trials(write_run, f"m{seed}", seed, level, method="mscn", checkpoint=facts)
    write_run("a", "knn", {"knn20_top1": 0}, pictures=False, scores=images(9, 46.0))
    write_trials(write_run, "a", 9, 46.0)
    results = results_of(tmp_path)
    row = next(row for row in results.checkpoints if row.label == "a")
    for pair in compare_rows(results, row, results.methods[0]):
        assert pair.found.estimate.covers == BOTH and pair.trials == "each row's own spread"
        assert pair.verdict == "not resolved"
        assert pair.found.estimate.se > 2  # the seeds' deviation of about 4.6 over sqrt(3)


def test_methods_pool_pretraining_seeds(tmp_path: Path, write_run: Writer) -> None:
    """Three seeds are a method, whose n counts seeds; two are not."""
    for method, count, level in (("mscn", 3, 60.0), ("simclr", 2, 50.0)):
        for seed in range(count):
            facts = {"pretrain_seed": seed, "pretrain_config_sha256": f"{method}-config"}
            for trial in range(2):
                scores = images(seed, level + seed, trial)
                write_run(
                    f"{method}{seed}",
                    "linear",
                    {"top1": 0},
                    trial,
                    method=method,
                    pictures=False,
                    scores=scores,
                    checkpoint=facts,
                )
    results = results_of(tmp_path)
    (row,) = results.methods
    assert row.unit == "method (3 pretraining seeds)" and row.label == "mscn (method)"
    cell = results.cell(row, results.protocols[0])
    means = [
        np.mean(results.cell(c, results.protocols[0]).values["top1"])
        for c in results.checkpoints
        if c.method == "mscn"
    ]
    summary = cell.summaries["top1"]
    assert summary.n == 3 and summary.mean == pytest.approx(np.mean(means))
    assert summary.std == pytest.approx(np.std(means, ddof=1)) and summary.covers == BOTH
    assert cell.samples["top1"].replicates.shape == (3, 200)
    assert "## Methods" in to_markdown(results) and "mscn (method)" in to_terminal(results)
    written = write_report(
        [tmp_path / "runs"], tmp_path / "out", pair=("mscn (method)", "simclr0"), pictures=False
    )
    assert "method (3 pretraining seeds)" in written.comparison
    assert "mscn (method)" in (tmp_path / "out/report.html").read_text()


def test_two_checkpoints_of_one_seed_are_not_pooled(tmp_path: Path, write_run: Writer) -> None:
    for seed in range(3):
        facts = {"pretrain_seed": seed, "pretrain_config_sha256": "config"}
        for variant in ("", "_precise_bn"):
            name = f"mscn{seed}{variant}"
            write_run(name, "linear", {"top1": 60.0}, pictures=False, checkpoint=facts)
    results = results_of(tmp_path)
    assert not results.methods and len(results.checkpoints) == 6
    assert any("mscn0 and mscn0_precise_bn have the same" in note for note in results.notes)


def test_an_unfinished_run_is_no_seed_of_the_others(tmp_path: Path, write_run: Writer) -> None:
    for seed, epochs in enumerate((10, 10, 4)):
        facts = {"pretrain_seed": seed, "pretrain_config_sha256": "c", "pretrain_epochs": epochs}
        write_run(f"mscn{seed}", "linear", {"top1": 60.0}, pictures=False, checkpoint=facts)
    assert not results_of(tmp_path).methods
    facts["pretrain_epochs"], facts["pretrain_seed"] = 10, 3
    write_run("mscn3", "linear", {"top1": 60.0}, pictures=False, checkpoint=facts)
    (row,) = results_of(tmp_path).methods
    assert (row.seeds, row.epochs) == (3, 10)


def test_equal_epochs_and_equal_compute(tmp_path: Path, write_run: Writer) -> None:
    costs = {"a": (100, 1000.0, 60.0), "b": (100, 1500.0, 62.0), "c": (150, 1530.0, 64.0)}
    for seed, (name, (epochs, seconds, level)) in enumerate(costs.items()):
        facts = {
            "pretrain_epochs": epochs,
            "pretrain_gpu_seconds": seconds,
            "pretrain_seconds": seconds / 8,
        }
        write_trials(write_run, name, seed, level, checkpoint=facts)
    results = results_of(tmp_path)
    header, rows = compute_rows(results, results.protocols[0], "top1")
    assert header[-2:] == ["best rival at equal epochs", "best rival at equal compute"]
    by_name = {row[0]: row for row in rows}
    assert list(by_name) == ["a", "b", "c"] and by_name["a"][3] == "16.7 min"
    assert "to b (resolved)" in by_name["a"][-2] and by_name["a"][-1] == "–"
    assert "to a (resolved)" in by_name["b"][-2] and "to c (resolved)" in by_name["b"][-1]
    assert (
        float(by_name["b"][-1].split()[0]) == pytest.approx(-2, abs=0.5) and by_name["c"][-2] == "–"
    )
    assert "equal compute" in to_markdown(results) and "equal compute" in to_latex(results)
    page = write_report([tmp_path / "runs"], tmp_path / "out").page.read_text()
    assert "to b (resolved)" in page


def test_one_row_is_not_compared_with_others_by_cost(tmp_path: Path, write_run: Writer) -> None:
    write_trials(write_run, "a", 0, 60.0, checkpoint={"pretrain_epochs": 100})
    results = results_of(tmp_path)
    assert not compute_rows(results, results.protocols[0], "top1")[1]
    assert "against the cost" not in to_markdown(results)
    page = write_report([tmp_path / "runs"], tmp_path / "out").page.read_text()
    assert 'id="compute"' not in page and "Equal cost" not in page


def test_the_best_of_many_rivals_is_corrected_for(tmp_path: Path, write_run: Writer) -> None:
    """A pair that is resolved alone, at p of 2 %, is not resolved among six."""
    values = {"a": [50.0, 50.4, 50.2], "b": [50.6, 50.9, 51.2]}
    for name in "cdefg":
        values[name] = [50.6, 50.2, 49.9]
    for name, numbers in values.items():
        for trial, value in enumerate(numbers):
            write_run(name, "linear", {"top1": value}, trial)
    results = results_of(tmp_path)
    (pair,) = compare_rows(results, *results.checkpoints[:2])
    assert 0.01 < pair.found.p < 0.05 and pair.verdict.startswith("resolved")
    _, rows = compute_rows(results, results.protocols[0], "top1")
    assert rows[0][-2:] == ["-0.7 to b (not resolved)"] * 2


def test_a_thousand_records_take_seconds(tmp_path: Path, write_run: Writer) -> None:
    """10 checkpoints x 20 protocols x 5 trials, all with replicates."""
    for name in range(10):
        for trial in range(5):
            scores = images(name, 50.0 + name, trial)
            metrics = {"top1": 0, "top5": 0}
            path = write_run(f"c{name}", "linear", metrics, trial, pictures=False, scores=scores)
            record = json.loads(path.read_text())
            for number in range(1, 20):
                protocol = {"name": f"linear_{number}", "config_sha256": f"{number:064d}"}
                folder = tmp_path / "runs" / f"{number}" / f"c{name}" / f"trial_{trial}"
                shutil.copytree(path.parent, folder)
                changed = {**record, "protocol": {**record["protocol"], **protocol}}
                (folder / "record.json").write_text(json.dumps(changed))
    start = time.process_time()  # of this process alone: the machine may be busy
    written = write_report([tmp_path / "runs"], tmp_path / "out")
    seconds = time.process_time() - start
    assert "20 protocols, 1000 runs" in written.page.read_text()
    assert seconds < 20, f"{seconds:.1f} s"
