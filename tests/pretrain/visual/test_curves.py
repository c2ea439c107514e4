"""Curves from metrics.jsonl, their figure and their JSON."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pretrain.common.errors import InputError
from pretrain.visual.curves import (
    Curve,
    RunCurves,
    Spectrum,
    draw_curves,
    read_curves,
    write_curves,
)

BLUE, ORANGE, GREY = (31, 119, 180), (255, 127, 14), (128, 128, 128)
ROWS = """{"step": 0, "knn20_top1": 10.0, "feature_std": 0.01, "effective_rank": 20.5}
{"step": 1, "loss": 3.0, "batch_feature_std": 0.02, "output_std": 0.1}
{"step": 2, "loss": 2.0, "batch_feature_std": null, "output_std": 0.2}
{"step": 2, "knn20_top1": 30.0, "feature_std": 0.03, "effective_rank": 21.5}
{"step": 3, "loss"""  # cut off by a kill


def write_run(folder: Path, text: str) -> Path:
    folder.mkdir()
    (folder / "metrics.jsonl").write_text(text)
    return folder


def colours(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def count(picture: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((picture == np.array(colour)).all(axis=2).sum())


def test_rows_become_curves(tmp_path: Path) -> None:
    assert read_curves(write_run(tmp_path / "run", ROWS)) == {
        "knn20_top1": Curve([0, 2], [10.0, 30.0]),
        "feature_std": Curve([0, 2], [0.01, 0.03]),
        "effective_rank": Curve([0, 2], [20.5, 21.5]),
        "batch_feature_std": Curve([1, 2], [0.02, None]),
        "output_std": Curve([1, 2], [0.1, 0.2]),
    }


@pytest.mark.parametrize(
    "text, message",
    [
        (None, "metrics.jsonl does not exist; give --run"),
        ("", "metrics.jsonl has no row with any of feature_std, effective_rank"),
        ('{"step": 1, "loss": 2.0}\n', "has no row with any of"),
        ('{"iteration": 1, "feature_std": 2.0}\n', "has no row with any of"),
        ('{"step": 1, "feat\n', "has no row with any of"),
    ],
)
def test_runs_without_curves(tmp_path: Path, text: str | None, message: str) -> None:
    run = tmp_path / "run"
    run.mkdir()
    if text is not None:
        (run / "metrics.jsonl").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_curves(run)
    assert "\n" not in str(caught.value)


def test_a_run_that_this_user_may_not_read_is_bad_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> bool:
        raise PermissionError(13, "Permission denied", "metrics.jsonl")

    monkeypatch.setattr(Path, "is_file", refuse)
    with pytest.raises(InputError, match=r"metrics.jsonl cannot be read \(Permission denied\)$"):
        read_curves(tmp_path)


def test_figure_has_a_panel_per_quantity_and_a_line_per_run(tmp_path: Path) -> None:
    one = RunCurves("one", {"feature_std": Curve([0, 100], [0.01, 0.02])})
    small = colours(draw_curves([one], tmp_path / "one.png"))
    assert small.shape[:2] == (380, 460)
    assert count(small, BLUE) > 100 and count(small, ORANGE) == 0

    one.references = {"feature_std": 0.05}
    dashed = colours(draw_curves([one], tmp_path / "reference.png"))
    assert count(dashed, GREY) > count(small, GREY) + 100

    curves = read_curves(write_run(tmp_path / "run", ROWS))
    spectrum = Spectrum(64, 3.0, [0.5, 0.3, 0.2, 1e-17])
    both = [one, RunCurves("two", curves, {}, spectrum)]
    large = colours(draw_curves(both, tmp_path / "both.png"))
    assert large.shape[:2] == (710, 3 * 460), "five quantities and the spectrum"
    panels = [
        large[330 * row : 330 * row + 330, 460 * column : 460 * column + 460]
        for row in (0, 1)
        for column in (0, 1, 2)
    ]
    assert [count(panel, BLUE) > 50 for panel in panels] == [True] + [False] * 5
    assert [count(panel, ORANGE) > 3 for panel in panels] == [True] * 6
    assert count(large[640:], BLUE) > 10 and count(large[640:], ORANGE) > 10, "the legend"


@pytest.mark.filterwarnings("error")
def test_a_collapse_can_be_drawn(tmp_path: Path) -> None:
    curves = {"feature_std": Curve([0, 1], [0.0, 0.0]), "batch_feature_std": Curve([1], [None])}
    run = RunCurves("collapsed", curves, {"feature_std": 0.1}, Spectrum(3, 1.0, [0.0, 0.0, 0.0]))
    assert count(colours(draw_curves([run], tmp_path / "c.png")), BLUE) > 20


def test_many_runs_have_colours_of_their_own(tmp_path: Path) -> None:
    runs = [RunCurves(str(i), {"feature_std": Curve([0, 9], [i, i + 1.0])}) for i in range(12)]
    picture = colours(draw_curves(runs, tmp_path / "many.png"))
    found = np.unique(picture.reshape(-1, 3), axis=0, return_counts=True)
    strong = found[0][(found[1] > 150) & (np.ptp(found[0].astype(int), axis=1) > 20)]
    assert len(strong) >= 10, "coloured, and not one for all"


def test_json_holds_what_is_drawn(tmp_path: Path) -> None:
    curves = read_curves(write_run(tmp_path / "run", ROWS))
    run = RunCurves("two", curves, {"feature_std": 0.1}, Spectrum(4, 1.5, [0.75, 0.25]))
    (entry,) = json.loads(write_curves([run], tmp_path / "s.json").read_text())
    assert entry["run"] == "two" and entry["references"] == {"feature_std": 0.1}
    assert entry["curves"]["batch_feature_std"] == {"steps": [1, 2], "values": [0.02, None]}
    assert entry["spectrum"] == {"images": 4, "effective_rank": 1.5, "shares": [0.75, 0.25]}
    assert run.last().startswith("two: knn20_top1 30, feature_std 0.03")
    assert "batch_feature_std nan" in run.last()
