"""Our engine against the real Detectron2: same weights, same inputs, same seeds, one CPU process.

Boxes, scores, classes, masks and gradients must be equal bit for bit; losses to 1e-6, because the
order of their sums is not guaranteed. test_golden.py is the part that works without Detectron2.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from pretrain.common.distributed import distribute
from tests.transfer.detection.equality import our_inputs
from tests.transfer.detection.equality.cases import ADAMW, CASES, keys_of, training_batch
from tests.transfer.detection.equality.our_side import Ours
from tests.transfer.detection.equality.runs import CaseRun, make_model, run_case
from tests.transfer.detection.specs import make_detector
from tests.two_processes import run_in_two
from transfer.detection.torchvision_engine.load import load_model
from transfer.detection.torchvision_engine.mask_targets import BitMasks, Polygons
from transfer.detection.torchvision_engine.vit_positions import absolute_positions

pytest.importorskip("detectron2.modeling", reason="detectron2 is not installed")
pytestmark = pytest.mark.detectron2

# Not imported above: these two import detectron2.
their_inputs = importlib.import_module("tests.transfer.detection.equality.their_inputs")
their_side = importlib.import_module("tests.transfer.detection.equality.their_side")
Theirs = their_side.Theirs


@pytest.fixture(params=CASES, scope="module")  # module: each case runs once for all tests
def runs(request: pytest.FixtureRequest) -> tuple[CaseRun, CaseRun]:
    return run_case(Ours(), request.param), run_case(Theirs(), request.param)


@pytest.mark.parametrize("case", CASES)
def test_random_initialisation_is_the_same(case: str) -> None:
    keys = keys_of(case)
    torch.manual_seed(7)
    theirs = Theirs().build(keys).state_dict()
    torch.manual_seed(7)
    ours = make_detector(keys).state_dict()
    assert set(ours) == set(theirs)
    for key, value in theirs.items():
        assert torch.equal(ours[key], value), key


def test_losses_of_every_step(runs: tuple[CaseRun, CaseRun]) -> None:
    ours, theirs = runs
    assert ours.rates == theirs.rates
    assert len(ours.losses) == len(theirs.losses)
    for found, expected in zip(ours.losses, theirs.losses):
        assert set(found) == set(expected)
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=1e-6, atol=0.0, msg=key)


def test_gradients(runs: tuple[CaseRun, CaseRun]) -> None:
    ours, theirs = runs
    assert set(ours.gradients) == set(theirs.gradients)
    for name, value in theirs.gradients.items():
        assert torch.equal(ours.gradients[name], value), name


def test_detections(runs: tuple[CaseRun, CaseRun]) -> None:
    ours, theirs = runs
    for found, expected in zip(ours.found, theirs.found):
        assert set(found) == set(expected) and len(found["boxes"]) > 0
        for name, value in expected.items():
            assert torch.equal(found[name], value), name


def test_state_after_three_steps(runs: tuple[CaseRun, CaseRun]) -> None:
    ours, theirs = runs
    assert set(ours.state) == set(theirs.state)
    for name, value in theirs.state.items():
        torch.testing.assert_close(ours.state[name], value, rtol=1e-6, atol=1e-9, msg=name)


@pytest.mark.parametrize("case", ADAMW)
def test_rate_and_decay_of_every_parameter(case: str) -> None:
    """ViTDet's layer-wise decay, and which parameters decay: norms of maps do, a ViT's do not."""
    settings = []
    for side in (Ours(), Theirs()):
        model = make_model(side, case)
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        optimizer, set_rate = side.optimizer(model, ADAMW[case])
        set_rate(0)
        settings.append(
            {
                names[id(parameter)]: (group["lr"], group["weight_decay"], group["betas"])
                for group in optimizer.param_groups
                for parameter in group["params"]
            }
        )
    assert settings[0] == settings[1]
    assert settings[0]["backbone.net.pos_embed"][1] == 0.0
    assert settings[0]["backbone.simfp_2.1.weight"][1] == 0.1


@pytest.mark.parametrize("case", ADAMW)
def test_losses_and_gradients_in_fp16(case: str) -> None:
    """ViTDet's recipe trains so; on a CPU, where autocast casts other operations than on a GPU."""
    found = []
    for side in (Ours(), Theirs()):
        model = make_model(side, case).train()
        torch.manual_seed(0)
        with torch.autocast("cpu", dtype=torch.float16):
            losses = side.losses(model, training_batch(0))
        (1024 * sum(losses.values())).backward()
        gradients = {f"gradient of {name}": p.grad for name, p in model.named_parameters()}
        found.append({**losses, **gradients})
    assert set(found[0]) == set(found[1])
    for name, value in found[1].items():
        assert torch.equal(found[0][name], value), name


@pytest.mark.parametrize("size", [(14, 14), (64, 64), (5, 9)])
def test_absolute_positions(size: tuple[int, int]) -> None:
    from detectron2.modeling.backbone.utils import get_abs_pos

    table = torch.randn(1, 197, 16)
    assert torch.equal(absolute_positions(table, *size), get_abs_pos(table, True, size))


def test_precise_bn(runs: tuple[CaseRun, CaseRun]) -> None:
    ours, theirs = runs  # of the cases in PRECISE_BN; empty for the others
    assert set(ours.precise) == set(theirs.precise)
    for name, value in theirs.precise.items():
        torch.testing.assert_close(ours.precise[name], value, rtol=1e-6, atol=1e-7, msg=name)


@pytest.mark.parametrize(
    "topic",
    [
        "geometry",
        "orders",
        "repeats",
        "clipped",
        "mapped",
        "crops",
        "crops_polygons",
        "jitter",
        "jitter_polygons",
        "jitter_bitmasks",
        "crops_bitmasks",
        "keypoints",
        "naive_sync",
    ],
)
def test_equal_bit_for_bit(topic: str, tmp_path: Path) -> None:
    if topic.endswith(("_polygons", "_bitmasks")):
        pytest.importorskip("shapely", reason="shapely, which cuts polygons, is not installed")
    found = our_inputs.TOPICS[topic](make_folder(tmp_path / "ours"))
    golden = their_inputs.TOPICS[topic](make_folder(tmp_path / "theirs"))
    assert set(found) == set(golden)
    for key, expected in golden.items():
        np.testing.assert_array_equal(found[key], expected, err_msg=key)


@pytest.mark.parametrize(
    "topic, package",
    [
        *(("rates", "numpy"), ("voc_metrics", "numpy"), ("voc_ties", "numpy")),
        *(("lvis_metrics", "lvis"), ("cityscapes_metrics", "cityscapesscripts")),
    ],
)
def test_equal_to_the_ninth_decimal(topic: str, package: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    found = our_inputs.TOPICS[topic](make_folder(tmp_path / "ours"))
    for key, expected in their_inputs.TOPICS[topic](make_folder(tmp_path / "theirs")).items():
        # Detectron2's VOC12 metric is NaN when a class has no ground truth (seed 2); ours is not.
        if np.isfinite(expected).all() or key != "2/2012":
            np.testing.assert_allclose(found[key], expected, rtol=0.0, atol=1e-9, err_msg=key)


def make_folder(path: Path) -> Path:
    path.mkdir()
    return path


def train_on_rank(rank: int, folder: str) -> None:
    """One step of both detectors with naiveSyncBN under DDP; writes the names that differ."""
    from detectron2.utils.events import EventStorage

    ours = distribute(make_model(Ours(), "fpn_r18").train())
    theirs = distribute(make_model(Theirs(), "fpn_r18").train())
    batch = training_batch(2 * rank)
    torch.manual_seed(rank)
    found = ours(batch)
    torch.manual_seed(rank)
    with EventStorage():
        expected = theirs(their_side.to_detectron2(batch, theirs.module))
    sum(found.values()).backward()
    sum(expected.values()).backward()
    others = dict(theirs.named_parameters()) | dict(theirs.named_buffers())
    wrong = [
        name for name, p in ours.named_parameters() if not torch.equal(p.grad, others[name].grad)
    ]
    buffers = [(n, b) for n, b in ours.named_buffers() if ".running_" in n]
    wrong += [name for name, buffer in buffers if not torch.equal(buffer, others[name])]
    wrong += [n for n in expected if not torch.allclose(found[n], expected[n], rtol=1e-6, atol=0)]
    (Path(folder) / f"{rank}.txt").write_text(f"{len(buffers)} {wrong}")


def test_a_detector_over_two_processes(tmp_path: Path) -> None:
    run_in_two(train_on_rank, tmp_path)
    for rank in range(2):
        assert (tmp_path / f"{rank}.txt").read_text() == "40 []"


def test_mask_targets_of_both_forms() -> None:
    from detectron2.structures import BitMasks as TheirBitMasks
    from detectron2.structures import PolygonMasks

    random = np.random.default_rng(0)
    polygons = [[random.uniform(0, 60, 10), random.uniform(0, 60, 8)] for _ in range(6)]
    corners = random.uniform(0, 50, (6, 2))
    boxes = np.concatenate([corners, corners + random.uniform(0, 30, (6, 2))], axis=1)
    boxes[0, 2:] = boxes[0, :2] + 0.05  # narrower than the least side that zooming divides by
    boxes_tensor, index = torch.from_numpy(boxes).float(), torch.arange(6)
    bitmaps = torch.from_numpy(random.uniform(size=(6, 60, 60)) > 0.5)
    for size in (14, 28):
        expected = PolygonMasks(copy.deepcopy(polygons)).crop_and_resize(boxes_tensor, size)
        assert torch.equal(Polygons(polygons).crop(index, boxes_tensor, size), expected)
        expected = TheirBitMasks(bitmaps).crop_and_resize(boxes_tensor, size)
        assert torch.equal(BitMasks(bitmaps).crop(index, boxes_tensor, size), expected)


@pytest.mark.parametrize("case", ["fpn_r18", "vitdet", "c5_resnext", "fpn_keypoints"])
def test_our_file_is_read_by_their_checkpointer(case: str, tmp_path: Path) -> None:
    from detectron2.checkpoint import DetectionCheckpointer

    keys = keys_of(case)
    ours, theirs = make_detector(keys), Theirs().build(keys)
    torch.save({"model": ours.state_dict()}, tmp_path / "model_final.pth")
    DetectionCheckpointer(theirs).load(str(tmp_path / "model_final.pth"))
    expected = ours.state_dict()
    for name, value in theirs.state_dict().items():
        assert torch.equal(value, expected[name]), name
    again = make_detector(keys)
    report = load_model(again, {k: v.numpy() for k, v in theirs.state_dict().items()})
    assert report.unexpected == [] and report.expected_missing == []
