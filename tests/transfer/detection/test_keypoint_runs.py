"""Keypoint R-CNN on a few digits: from weights to record, and input that cannot be trained on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pretrain.common.errors import InputError
from transfer.datasets.registry import open_sets
from transfer.detection.config import load_detection_config, protocol_sha256
from transfer.detection.footprint import step_cost
from transfer.detection.task import DetectionTask
from transfer.detection.torchvision_engine.engine import training_batches, training_images
from transfer.results.metrics import headlines
from transfer.results.record import read_record
from transfer.trials.loop import run_trials
from transfer.trials.task import Request

CONFIG, TASK = "digits_keypoints.yaml", DetectionTask()
TINY = (
    "SOLVER.IMS_PER_BATCH 2 SOLVER.MAX_ITER 3 SOLVER.STEPS (2,) SOLVER.WARMUP_ITERS 1 "
    "TRANSFER.LOG_PERIOD 1 DATALOADER.NUM_WORKERS 0 INPUT.MIN_SIZE_TRAIN (64,) "
    "INPUT.MIN_SIZE_TEST 64 MODEL.RPN.POST_NMS_TOPK_TEST 8 TRANSFER.REPLICATES 4"
).split()


def request(output: Path, *overrides: str, **changes: Any) -> Request:
    options = {"engine": "torchvision", **changes}
    return Request(CONFIG, "random", str(output), overrides=(*TINY, *overrides), **options)


def test_a_run_its_record_and_its_files(digits: Path, tmp_path: Path) -> None:
    (path,) = run_trials(TASK, TASK.prepare(request(tmp_path)))
    record = read_record(path)
    wanted = {f"keypoints/{name}" for name in ("AP", "AP50", "AP75", "APm", "APl")}
    assert wanted <= set(record["metrics"]) and record["task"] == "detection"
    assert record["per_class"]["keypoints/AP"].keys() == {"digit"}
    assert "keypoints/AP" in headlines(record["task"], record["metrics"])
    found = json.loads((path.parent / "inference/coco_instances_results.json").read_text())
    assert found and all(len(one["keypoints"]) == 12 for one in found)
    drawn = json.loads((path.parent / "inference/replicates.json").read_text())
    assert "keypoints/AP" in drawn["replicates"]
    lines = (path.parent / "metrics.json").read_text().splitlines()
    assert "loss_keypoint" in json.loads(lines[0])
    # The whole detector is scored again, and is what another run starts from.
    again = request(tmp_path / "again")
    model = Request(**{**vars(again), "weights": str(path.parent / "model_final.pth")})
    scored = TASK.evaluate(model, TASK.open_trained(model))
    assert scored is not None
    kept = {name: value for name, value in scored.metrics.items() if value == value}
    assert kept == {n: pytest.approx(record["metrics"][n], abs=1e-4) for n in kept}
    job = TASK.prepare(model)
    weights = TASK.read_weights(job, 0)
    assert any(name.startswith("roi_heads.keypoint_head.") for name in weights.fitting)


def test_identity_has_the_head_only_where_it_is() -> None:
    off = load_detection_config("digits_coco.yaml", ("TEST.KEYPOINT_OKS_SIGMAS", "[0.1]"))
    assert protocol_sha256(off) == protocol_sha256(load_detection_config("digits_coco.yaml"))
    shas = {
        protocol_sha256(load_detection_config(CONFIG, words))
        for words in ((), ("MODEL.ROI_KEYPOINT_HEAD.LOSS_WEIGHT", "2.0"))
    }
    assert len(shas) == 2


def test_its_step_has_a_cost() -> None:
    cfg = load_detection_config(CONFIG)
    whole = step_cost(cfg, size=(64, 64))
    narrow = load_detection_config(CONFIG, ("MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", "(8,)"))
    assert whole.flops > step_cost(narrow, size=(64, 64)).flops > 0


def test_images_with_few_keypoints_are_left_out(digits: Path) -> None:
    cfg = load_detection_config(CONFIG, [*TINY])
    data = open_sets(cfg.DATASETS.TRAIN, keypoints=4)
    counts = [sum(len(i.keypoints or ()) // 3 for i in sample.instances) for sample in data.samples]
    least = ("MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE", "9")
    kept = training_images(load_detection_config(CONFIG, [*TINY, *least]), data)
    assert len(kept) == sum(count >= 9 for count in counts) < len(data)
    with pytest.raises(InputError, match="the 99 labelled keypoints of .*MIN_KEYPOINTS_PER_IMAGE"):
        training_images(load_detection_config(CONFIG, [*TINY, least[0], "99"]), data)


def test_a_crop_that_drops_keypoints_still_trains(digits: Path) -> None:
    """Those outside are no longer labelled; a batch without any has a loss of zero."""
    crop = "INPUT.CROP.ENABLED True INPUT.CROP.TYPE absolute INPUT.CROP.SIZE [12,12]".split()
    cfg = load_detection_config(CONFIG, [*TINY, *crop])
    data = open_sets(cfg.DATASETS.TRAIN, keypoints=4)
    batches = training_batches(cfg, data)
    items = [item for _ in range(4) for item in next(batches)]
    labelled = [item["keypoints"] for item in items]
    assert any((one[..., 2] == 0).any() for one in labelled)
    for item, one in zip(items, labelled):
        assert len(one) == len(item["boxes"])
        assert not one[one[..., 2] == 0].any(), "what is not labelled is zero"


def write(folder: Path, change: Any) -> Request:
    """A request whose training file is changed."""
    path = folder / "digits_coco/annotations/person_keypoints_train.json"
    content = json.loads(path.read_text())
    change(content)
    changed = folder / f"changed_{len(list(folder.glob('changed_*')))}.json"
    changed.write_text(json.dumps(content))
    train = f"['coco:{changed}:{folder / 'digits_coco/train'}']"
    return request(folder, "DATASETS.TRAIN", train)


def half_a_keypoint(content: dict[str, Any]) -> None:
    content["annotations"][1]["keypoints"].pop()


def no_other_side(content: dict[str, Any]) -> None:
    content["categories"][0]["keypoints"] = ["top", "bottom", "left_end", "end"]


def no_names(content: dict[str, Any]) -> None:
    del content["categories"][0]["keypoints"]


def one_name_less(content: dict[str, Any]) -> None:
    content["categories"][0]["keypoints"].pop()


def unlabelled(content: dict[str, Any]) -> None:
    for annotation in content["annotations"]:
        annotation["keypoints"] = [0] * 12


def bad_visibility(content: dict[str, Any]) -> None:
    content["annotations"][0]["keypoints"][2] = 3


def not_a_number(content: dict[str, Any]) -> None:
    content["annotations"][0]["keypoints"][1] = None


def outside(content: dict[str, Any]) -> None:
    for annotation in content["annotations"]:
        annotation["keypoints"] = [500, 500, 2] * 4


def relative(content: dict[str, Any]) -> None:
    for annotation in content["annotations"]:
        annotation["keypoints"] = [0.25, 0.5, 2] * 4


def points(content: dict[str, Any]) -> None:
    content["annotations"][0]["keypoints"] = [[1, 2, 2]] * 4


def other_order(content: dict[str, Any]) -> None:
    content["categories"][0]["keypoints"].reverse()


@pytest.mark.parametrize(
    "change, message",
    [
        (half_a_keypoint, "keypoints are not 4 times x, y, visibility .*annotation 2 .11 numbers"),
        (no_other_side, "'left_end' .'right_end' is missing.; rename .*INPUT.RANDOM_FLIP none"),
        (no_names, "name no keypoints, .*add 'keypoints'.*INPUT.RANDOM_FLIP none"),
        (one_name_less, "names 3 keypoints .*NUM_KEYPOINTS is 4; set it to 3"),
        (unlabelled, "no object of .* has a labelled keypoint; .*MODEL.KEYPOINT_ON False"),
        (bad_visibility, "visibilities of keypoints are not 0, 1 or 2"),
        (not_a_number, "values are not finite numbers .1: annotation 1 .keypoints"),
        (outside, "all labelled keypoints of .* are outside their images.*write x and y in pixels"),
        (relative, "within 1 px of the corner: relative .*annotation 1 .0.25, 0.5.*multiply them"),
        (points, "not one list x, y, visibility, .*annotation 1 .*write them in this form"),
        (other_order, "the keypoints of .*test.* are not those of .*changed_0"),
    ],
)
def test_data_that_is_refused(digits: Path, tmp_path: Path, change: Any, message: str) -> None:
    root = tmp_path / "data"
    shutil.copytree(digits / "digits_coco", root / "digits_coco")
    with pytest.raises(InputError, match=message) as error:
        TASK.open_data(write(root, change), scan=False)
    assert "\n" not in str(error.value)


def test_a_test_set_without_keypoints_to_find(digits: Path, tmp_path: Path) -> None:
    """Its score would be missing, which would show only after the training."""
    content = json.loads(
        (digits / "digits_coco/annotations/person_keypoints_test.json").read_text()
    )
    content["annotations"][0]["iscrowd"] = 1  # a crowd region is not to be found
    for annotation in content["annotations"][1:]:
        annotation["keypoints"] = [0] * 12
    (tmp_path / "test.json").write_text(json.dumps(content))
    name = f"['coco:{tmp_path / 'test.json'}:{digits / 'digits_coco/test'}']"
    with pytest.raises(InputError, match="no object of the test set .* has a labelled keypoint"):
        TASK.open_data(request(tmp_path, "DATASETS.TEST", name), scan=False)
    off = ("MODEL.KEYPOINT_ON", "False", "TEST.KEYPOINT_OKS_SIGMAS", "[]")
    TASK.open_data(request(tmp_path, "DATASETS.TEST", name, *off), scan=False)


@pytest.mark.parametrize(
    "words, message",
    [
        (
            "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS 5",
            "KEYPOINT_OKS_SIGMAS is 4 numbers, but .* is 5",
        ),
        (
            "TEST.KEYPOINT_OKS_SIGMAS []",
            "is empty, which means COCO's 17, but .*NUM_KEYPOINTS is 4",
        ),
        ("TEST.KEYPOINT_OKS_SIGMAS [0.1,0.1,0.1,0]", "must be numbers above 0"),
        ("MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS ()", "CONV_DIMS .* needs the channels"),
        ("MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS 0", "NUM_KEYPOINTS must be 1 or above"),
        ("MODEL.ROI_KEYPOINT_HEAD.NAME Other", "NAME 'Other' is not supported; the only value"),
        ("MODEL.META_ARCHITECTURE RetinaNet", "RetinaNet does not work with"),
        ("MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE -1", "must be 0 or above"),
    ],
)
def test_configs_that_are_refused(words: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_detection_config(CONFIG, words.split(" "))


def test_a_detector_that_cannot_have_the_head() -> None:
    with pytest.raises(InputError, match="MODEL.KEYPOINT_ON True needs .*StandardROIHeads"):
        load_detection_config("voc_mscn.yaml", ("MODEL.KEYPOINT_ON", "True"))
    words = ("MODEL.KEYPOINT_ON", "True", "DATASETS.TRAIN", "[]", "DATASETS.TEST", "[]")
    with pytest.raises(InputError, match="coco:FOLDER"):
        load_detection_config("own_fpn.yaml", words)


def test_a_voc_folder_has_no_keypoints(digits: Path, tmp_path: Path) -> None:
    voc = ("DATASETS.TRAIN", "['voc:digits_voc:train']", "DATASETS.TEST", "['voc:digits_voc:test']")
    with pytest.raises(InputError, match="needs annotations in COCO's layout"):
        TASK.open_data(request(tmp_path, *voc, "MODEL.ROI_HEADS.NUM_CLASSES", "10"), scan=False)
