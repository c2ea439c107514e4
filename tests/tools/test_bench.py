"""tools/bench.py and its parts: exit status, computed rates, generated photographs."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import seconds, timing
from benchmarks.images import RepeatedImages, write_photos
from benchmarks.peers import lightly_batches, require_peer
from benchmarks.run import conclusions, report
from benchmarks.timing import Sample
from pretrain.common.errors import InputError
from pretrain.data.datasets import FolderImages
from pretrain.data.folders import scan_folder
from tools.bench import main, parse

ROOT = Path(__file__).parents[2]
TINY = ["--batch-size", "4", "--workers", "1", "--seconds", "0.05", "--repetitions", "1"]
TINY += ["--config", "simclr_demo.yaml"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    write_photos(folder, 6, (48, 40))
    return folder


def test_step_names_the_bottleneck(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["step", *TINY, "--data", str(photos), "--output", str(tmp_path), "--json"]
    assert main(command) == 0
    result = json.loads(capsys.readouterr().out)
    assert result == json.loads((tmp_path / "bench_step.json").read_text())
    assert list(result["parts"]) == ["loader", "augment", "compute", "step"]
    assert all(part["images_per_second"]["low"] > 0 for part in result["parts"].values())
    assert result["bottleneck"] in ("loader", "augment", "compute")
    assert result["ratios"]["step / compute"]["median"] > 0


def test_loader_on_generated_photographs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.run.PHOTOS", 8)
    assert main(["loader", *TINY, "VIEWS.SIZE", "16"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "at 16 px, batch 4, 1 workers" in lines[0]
    assert lines[2].startswith("loader ")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["step", "--config", "nope.yaml"], "no config 'nope.yaml'"),
        (["step", "--config", "simclr_demo.yaml", "SOLVER.BATCH", "1"], "SOLVER.BATCH"),
        (["step", "--seconds", "0"], "--seconds 0.0 must be above 0"),
        (["loader", *TINY, "--data", "/nowhere"], "/nowhere"),
        (["loader", *TINY, "--batch-size", "7"], "less than one batch"),
    ],
)
def test_bad_input(
    command: list[str], words: str, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "--batch-size" in command[-2:]:
        command = [*command, "--data", str(photos)]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert words in error


def test_a_missing_peer_is_one_line_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install lightly"):
        require_peer("lightly")


def test_usage_error_in_a_subprocess() -> None:
    result = subprocess.run(
        [sys.executable, "tools/bench.py", "everything"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2 and "invalid choice" in result.stderr
    assert "Traceback" not in result.stderr


def test_overrides_may_follow_the_options() -> None:
    args = parse(["step", "--seconds", "2", "VIEWS.SIZE", "64"])
    assert (args.kind, args.seconds, args.opts) == ("step", 2.0, ["VIEWS.SIZE", "64"])


def test_measure_leaves_out_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0, 0.0]  # seconds by the wall, of the processor
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(timing, "cpu_seconds", lambda: clock[1])
    steps: list[int] = []

    def step() -> int:
        steps.append(1)
        clock[0] += 2.0
        clock[1] += 0.5
        return 5

    assert timing.measure(step, 6.0, lambda: None) == Sample(5 / 2.0, 500 / 5)
    assert len(steps) == 1 + 3


def test_interleaving_turns_round() -> None:
    calls: list[str] = []

    def work(name: str) -> timing.Work:
        def measure(seconds: float) -> Sample:
            calls.append(name)
            return Sample(seconds, 0.0)

        return measure

    samples = timing.interleaved({"a": work("a"), "b": work("b")}, 2.0, 3)
    assert calls == ["a", "b", "b", "a", "a", "b"]
    assert samples["a"] == [Sample(2.0, 0.0)] * 3


def test_ratios_are_taken_within_a_repetition() -> None:
    assert timing.ratio([2, 20, 6], [1, 10, 2]) == {"median": 2, "low": 2, "high": 3}
    samples = {
        "loader": [Sample(90, 1)],
        "augment": [Sample(50, 1)],
        "compute": [Sample(60, 1)],
        "step": [Sample(54, 1)],
        "views": [Sample(40, 3)],
        "views (lightly)": [Sample(20, 4)],
    }
    found = conclusions(samples)
    assert found["bottleneck"] == "augment"
    medians = {name: value["median"] for name, value in found["ratios"].items()}
    assert medians == {
        "step / compute": 0.9,
        "views / lightly": 2,
        "views / lightly, CPU time": 0.75,
    }


def test_report_has_a_line_for_each_part() -> None:
    three = {"median": 1.0, "low": 0.5, "high": 2.0}
    result = {
        "config": {"method": "mscn", "backbone": "resnet50", "size": 224},
        "options": {"batch_size": 8, "num_workers": 2},
        "device": "cpu",
        "parts": {"step": {"images_per_second": three, "cpu_ms_per_image": three}},
        "ratios": {"step / compute": three},
        "bottleneck": "compute",
    }
    text = report(result)
    assert "step / compute: 1.00 (0.50 to 2.00)" in text and "bottleneck: compute" in text


@pytest.fixture
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """`bench.py detect` sets the data sets' root; it is put back after the test."""
    monkeypatch.setenv("DETECTRON2_DATASETS", "/nowhere")


def test_detect_measures_the_engines_at_hand(
    own_environment: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("benchmarks.detect.SCENES", (4, 0, 1))
    command = ["detect", "--workers", "0", "--seconds", "0.01", "--repetitions", "2"]
    words = ["--batch-size", "2", "--output", str(tmp_path), "INPUT.MIN_SIZE_TRAIN", "(64,)"]
    assert main([*command, *words]) == 0
    shown = capsys.readouterr().out
    result = json.loads((tmp_path / "bench_detect.json").read_text())
    assert (result["config"]["batch"], result["config"]["short edge"]) == (2, [64])
    assert result["parts"]["torchvision"]["seconds"]["low"] > 0
    both = importlib.util.find_spec("detectron2") is not None
    assert list(result["ratios"]) == (["torchvision / detectron2"] if both else [])
    assert "config digits_coco.yaml" in shown and "s/iteration" in shown


def test_evaluate_compares_the_evaluators_at_hand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", "--images", "3", "--repetitions", "2", "--output", str(tmp_path)]
    assert main(command) == 0
    assert "coco, ours / coco, pycocotools alone: " in capsys.readouterr().out
    result = json.loads((tmp_path / "bench_evaluate.json").read_text())
    assert {"coco, ours", "coco, pycocotools alone", "voc, ours"} <= set(result["parts"])
    found = result["largest difference in percent points"]
    assert set(found) == set(result["parts"]) and max(found.values()) < 1e-9


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["detect", "--config", "nope.yaml"], "no config 'nope.yaml'"),
        (["detect", "SOLVER.LR", "1"], "SOLVER.LR"),
        (["detect", "--data", "/nowhere"], "/nowhere/digits_coco"),
        (["detect", "--peer", "lightly"], "bench.py detect does not accept --peer"),
        (["evaluate", "--images", "0"], "--images 0 must be above 0"),
        (["evaluate", "SOLVER.MAX_ITER", "1"], "bench.py evaluate does not accept KEY VALUE"),
    ],
)
def test_bad_input_of_detection(
    own_environment: None, command: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert words in error


def test_knn_finds_what_its_peers_find(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--bank", "900", "--queries", "30", "--dim", "16", "--repetitions", "2"]
    assert main(["knn", *sizes, "--output", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "ours / scikit-learn: " in shown and "MiB above the inputs" in shown
    result = json.loads((tmp_path / "bench_knn.json").read_text())
    assert ("ours / faiss-cpu" in result["ratios"]) == bool(importlib.util.find_spec("faiss"))
    for name, found in result["neighbours"].items():
        limit = (0.98, 1e-3) if "float16" in name else (0.9999, 1e-6)
        assert found["in common"] >= limit[0] and found["similarity"] <= limit[1], name


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["knn", "--bank", "150"], "--bank 150 must be 200 or more"),
        (["knn", "--dim", "0"], "--dim 0 must be above 0"),
        (["knn", "--config", "knn.yaml"], "bench.py knn does not accept --config"),
    ],
)
def test_bad_input_of_knn(
    command: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and words in error


def test_seconds_of_single_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(seconds, "cpu_seconds", lambda: clock[0] / 2)

    def wait(duration: float) -> None:
        clock[0] += duration

    slow = seconds.once(lambda: wait(4.0), prepare=lambda: wait(100.0))
    fast = seconds.once(lambda: wait(1.0))
    samples = timing.interleaved({"slow": slow, "fast": fast}, 0.0, 2)
    known = {"unit": "run", "options": {}, "config": {"size": 3}, "device": "cpu"}
    pairs = [("slow", "fast"), ("slow", "absent")]
    result = seconds.result(samples, pairs, **known)
    assert result["parts"]["slow"]["seconds"]["median"] == 4.0
    assert result["parts"]["slow"]["cpu_seconds"]["median"] == 2.0
    assert {name: value["high"] for name, value in result["ratios"].items()} == {"slow / fast": 4.0}
    text = seconds.report(result)
    assert text.startswith("size 3; cpu") and "slow / fast: 4.000 (4.000 to 4.000)" in text


def test_generated_photographs(photos: Path) -> None:
    images = FolderImages(scan_folder(photos))
    assert len(images) == 6 and images.read(0).size == (48, 40)
    assert len({Image.open(path).tobytes() for path in images.paths}) == 6
    repeated = RepeatedImages(images, 14)
    assert len(repeated) == 14 and repeated.name(13) == images.name(1)
    assert repeated.read(13).tobytes() == images.read(1).tobytes()


def test_lightly_delivers_batches(photos: Path) -> None:
    pytest.importorskip("lightly", reason="lightly is of the optional extra 'peers'")
    shape = {"size": 16, "length": 10, "batch_size": 4, "num_workers": 0, "seed": 0}
    assert list(lightly_batches(photos, **shape)) == [4, 4]
