"""The rule of docs/results/masking.md on made-up rows, and the page against the stored rows."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from benchmarks.ladder_rows import read_rows
from benchmarks.masking_report import (
    ENDPOINTS,
    GATE,
    PRIMARY,
    SECONDARY,
    TITLES,
    compare_all,
    draw,
    in_order,
    main,
    plan,
    read_floors,
    report_lines,
    values_of,
    verdict_lines,
)
from pretrain.common.config import CHECKOUT
from pretrain.common.errors import InputError

FILTERED = ("4_mscn", "5_image_noise", "7_simclr_filtered", "8_cell_noise")
ORDER = [(name, seed, "sha") for seed in range(5) for name in TITLES]


def row(name: str, seed: int, value: float) -> dict:
    """A row whose grey linear accuracy is `value`; probes that do not count read 99."""
    choice, other = ("on", "off") if name in FILTERED else ("off", "on")
    metrics = {f"{endpoint}/precise/{choice}": value + 1 for endpoint in ENDPOINTS}
    metrics[f"linear_gray/precise/{choice}"] = value
    metrics |= {f"{e}/{s}": 99.0 for e in ENDPOINTS for s in (f"precise/{other}", "raw/on")}
    facts = {"name": name, "seed": seed, "recipe_sha256": "sha", "metrics": metrics}
    return {**facts, "filter_wanted": name in FILTERED}


def rows_of(means: dict[str, float], seeds: int = 5, std: float = 0.4) -> list[dict]:
    """Seeds about each row's mean (default 10), with exactly this deviation; in the fixed order."""
    steps = np.linspace(-1, 1, seeds)
    steps = steps / steps.std(ddof=1) * std if seeds > 1 else steps * 0
    made = [
        row(name, seed, means.get(name, 10.0) + steps[seed])
        for seed in range(seeds)
        for name in TITLES
    ]
    return made


def verdicts(means: dict[str, float], **options: float) -> str:
    return "\n".join(
        verdict_lines(compare_all(values_of(rows_of(means, **options), "linear_gray")))
    )


OPEN = {"1_crops": 8.0}


def test_a_gain_over_simclr_with_the_filter_is_that_of_masks() -> None:
    text = verdicts({**OPEN, "4_mscn": 12.0})
    assert "The gate is open" in text and text.count("resolved, a gain") == 2
    assert "Masks help at this scale" in text


def test_a_gain_over_simclr_alone_may_be_the_filters() -> None:
    text = verdicts({**OPEN, "4_mscn": 12.0, "7_simclr_filtered": 12.0})
    assert text.count("resolved, a gain") == 1 and 'may not say "masks help"' in text
    assert "(4) - (7) is +0.00" in text


def test_a_small_interval_below_half_a_point_refutes() -> None:
    text = verdicts({**OPEN, "4_mscn": 9.6})
    assert text.count("refuted at this scale") == 2 and "resolved, a loss" not in text
    text = verdicts({**OPEN, "4_mscn": 10.4}, std=0.02)
    assert text.count("refuted at this scale") == 2, "resolved above 0, yet below half a point"
    assert "Masks help at this scale" not in text
    text = verdicts({**OPEN, "4_mscn": 10.2}, std=1.0)
    assert text.count("not resolved, and not refuted") == 2


def test_a_closed_gate_concludes_nothing() -> None:
    text = verdicts({"4_mscn": 14.0})
    assert "The gate is closed" in text and "help at this scale" not in text and "gain" not in text
    text = verdicts({"1_crops": 9.9, "4_mscn": 14.0})
    assert "The gate is closed" in text, "a difference whose interval holds 0"


def test_two_seeds_give_no_verdict() -> None:
    assert "needs 3 seeds" in verdicts({**OPEN, "4_mscn": 14.0}, seeds=2)
    assert "needs 3 seeds" in verdicts({**OPEN, "4_mscn": 14.0}, seeds=1)
    assert "Masks help" in verdicts({**OPEN, "4_mscn": 14.0}, seeds=3)


def test_differences_are_of_one_deviation_with_holms_p_over_six() -> None:
    draws = np.random.default_rng(1)
    values = {name: draws.normal(10.0 + i, 0.5, 5).tolist() for i, name in enumerate(TITLES)}
    found = compare_all(values)
    assert set(found) == {GATE, *PRIMARY, *SECONDARY} and found[GATE].p is None
    pooled = math.sqrt(np.mean([np.var(row, ddof=1) for row in values.values()]))
    raw = {}
    for (a, b), each in found.items():
        value, se = np.mean(values[a]) - np.mean(values[b]), pooled * math.sqrt(2 / 5)
        assert each.value == pytest.approx(value)
        assert each.interval == pytest.approx(stats.t.interval(0.95, 32, loc=value, scale=se))
        raw[a, b] = 2 * stats.t.sf(abs(value) / se, 32)
    named = sorted((raw[pair], pair) for pair in (*PRIMARY, *SECONDARY))
    largest = 0.0
    for rank, (p, pair) in enumerate(named):
        largest = max(largest, min(1.0, (6 - rank) * p))
        assert found[pair].p == pytest.approx(largest)


def test_only_the_weights_own_input_counts() -> None:
    values = values_of(rows_of({}, seeds=1), "linear_gray")
    assert set(values) == set(TITLES) and max(map(max, values.values())) < 99


def test_runs_behind_a_missing_one_wait() -> None:
    rows = rows_of({}, seeds=5)
    assert len(in_order(rows, ORDER)) == 40
    kept = in_order(rows[:11] + rows[12:], ORDER)
    assert [(r["name"], r["seed"]) for r in kept] == [(n, s) for n, s, _ in ORDER[:11]]
    assert in_order(rows[::-1], ORDER) == rows, "whatever the file's order"
    with pytest.raises(InputError, match="1_crops, seed 0 is there twice"):
        in_order([*rows, rows[0]], ORDER)
    with pytest.raises(InputError, match="not a run of masking_cpu.yaml"):
        in_order([{**rows[0], "recipe_sha256": "other"}], ORDER)


def test_the_report_says_how_many_runs_there_are(tmp_path: Path) -> None:
    floors = {"untrained": {endpoint: [3.0, 4.0] for endpoint in ENDPOINTS}}
    none = report_lines([], floors, "x.svg")
    assert none[0].startswith("**0 of 40 runs so far**") and not any("x.svg" in li for li in none)
    some = report_lines(rows_of(OPEN)[:19], floors, "x.svg")
    assert some[0].startswith(
        "**19 of 40 runs so far**, in the fixed order: 2 of 5 seeds are complete"
    )
    assert any(
        line.startswith("| (1) crops alone | 7.75 ± 0.25") and line.endswith("| 3 |")
        for line in some
    )
    assert any("no training: untrained | 3.50 ± 0.71" in line for line in some)
    every = report_lines(rows_of(OPEN), floors, "x.svg")
    assert every[0] == "**All 40 runs.**"
    for lines in (some, every):
        for block in "\n".join(lines).split("\n\n"):
            if block.startswith("|"):
                assert len({line.count("|") for line in block.splitlines()}) == 1
    first = report_lines(rows_of(OPEN)[:3], {}, "x.svg")
    assert any("no intervals yet" in line for line in first)


def test_the_figure_is_the_same_for_the_same_rows(tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        draw(rows_of(OPEN, seeds=2), tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_the_page_is_that_of_the_kept_rows(tmp_path: Path) -> None:
    results = CHECKOUT / "benchmarks/results"
    page = CHECKOUT / "docs/results/masking.md"
    copy = tmp_path / "masking.md"
    copy.write_text(page.read_text(encoding="utf-8"), encoding="utf-8")
    words = ["--rows", str(results / "masking_cpu.jsonl"), "--page", str(copy)]
    assert main([*words, "--floors", str(results / "masking_floors.json")]) == 0
    assert copy.read_text() == page.read_text(), "run python -m benchmarks.masking_report"
    rows = in_order(read_rows(results / "masking_cpu.jsonl"), plan())
    picture = page.with_name("masking") / "masking_cpu.svg"
    assert picture.is_file() == bool(rows)
    assert isinstance(read_floors(results / "masking_floors.json"), dict)
