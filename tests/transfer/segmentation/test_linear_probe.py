"""The linear probe: its maps, head and windows against slow versions or other libraries; runs.

N images, C channels, K classes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pretrain.backbones.resnet import build_resnet
from pretrain.common.errors import InputError
from pretrain.data.preprocess import Preprocess
from tests.transfer.conftest import Interrupted
from tools import train_det
from transfer.checkpoints.build import build_trunk
from transfer.checkpoints.read import random_weights
from transfer.checkpoints.writers import write_weights
from transfer.detection.config import protocol_sha256
from transfer.results.record import read_record
from transfer.segmentation.config import load_segmentation_config
from transfer.segmentation.fcn import Segmenter, build_segmenter
from transfer.segmentation.feature_maps import feature_maps, map_width, padded, side_unit
from transfer.segmentation.linear_head import LinearHead
from transfer.segmentation.sliding_windows import mean_over_windows, window_starts
from transfer.segmentation.task import SegmentationTask
from transfer.training.build import make_schedule
from transfer.trials.loop import run_trials
from transfer.trials.task import Request

TASK = SegmentationTask()
CONFIG = "digits_linear_probe.yaml"
TINY = (
    "SOLVER.IMS_PER_BATCH 2 SOLVER.MAX_ITER 6 SOLVER.WARMUP_ITERS 2 SOLVER.CHECKPOINT_PERIOD 3 "
    "TRANSFER.LOG_PERIOD 2 DATALOADER.NUM_WORKERS 0 TRANSFER.SEMANTIC.CROP_SIZE 64 "
    "TRANSFER.SEMANTIC.WINDOW_STRIDE 40 TRANSFER.DRAW_DETECTIONS 1 "
    "DATASETS.TRAIN semseg:digits_semseg:train DATASETS.TEST semseg:digits_semseg:val"
).split()
VIT = "vit_tiny_patch16_224"


def request(output: Path, *overrides: str, backbone: str = "tiny_resnet", **changes) -> Request:
    named = ("MODEL.BACKBONE.NAME", backbone) if backbone else ()
    options = {"weights": "random", **changes}
    return Request(CONFIG, output=str(output), overrides=(*TINY, *named, *overrides), **options)


def model_of(output: Path) -> dict[str, Tensor]:
    path = output / "trial_0" / "model_final.pth"
    return torch.load(path, weights_only=True)["model"]


@torch.no_grad()
@pytest.mark.parametrize("name", [VIT, "vit_tiny_patch8_reg4_96", "vit_tiny_patch16_avg_224"])
def test_a_vits_map_is_its_patches_after_the_last_norm(name: str) -> None:
    torch.manual_seed(0)
    trunk = build_trunk(name, {}).eval()
    image, side = torch.randn(1, 3, 48, 80), side_unit(trunk)
    (found,) = feature_maps(trunk, image)
    assert (
        found.shape == (1, 192, 48 // side, 80 // side) == (1, map_width(trunk), *found.shape[2:])
    )
    tokens = trunk.norm_pre(trunk._pos_embed(trunk.patch_embed(image)))
    for block in trunk.blocks:
        tokens = block(tokens)
    norm = trunk.fc_norm if "_avg_" in name else trunk.norm
    first = tokens.shape[1] - found[0, 0].numel()  # the class token, and registers
    for row in range(found.shape[2]):
        for column in range(found.shape[3]):
            token = norm(tokens[0, first + row * found.shape[3] + column])
            assert torch.allclose(found[0, :, row, column], token, atol=1e-5)


@torch.no_grad()
def test_maps_of_convolutional_networks() -> None:
    torch.manual_seed(1)
    image = torch.randn(1, 3, 64, 96)
    trunk = build_resnet("resnet18").eval()
    maps = trunk.forward_stages(image)
    found = feature_maps(trunk, image)
    assert torch.equal(found[0], maps["layer3"]) and torch.equal(found[1], maps["layer4"])
    convnext = build_trunk("convnext_atto", {}).eval()
    nn.init.normal_(convnext.head.norm.weight)
    (found_map,) = feature_maps(convnext, image)
    stages = convnext.stages(convnext.stem(image))
    place = stages[0, :, 1, 2]
    place = (place - place.mean()) / (place.var(unbiased=False) + 1e-6).sqrt()
    assert torch.allclose(found_map[0, :, 1, 2], place * convnext.head.norm.weight, atol=1e-4)
    # Pooled, it is what the network itself gives.
    lite = build_trunk("tf_efficientnet_lite0", {}).eval()
    (found_map,) = feature_maps(lite, image)
    assert found_map.shape == (1, map_width(lite), 2, 3)
    assert torch.allclose(found_map.mean(dim=(2, 3)), lite(image), atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_head_by_hand(training: bool) -> None:
    """Place by place; in training with the statistics of the batch."""
    torch.manual_seed(2)
    head = LinearHead(3, 2).train(training)
    with torch.no_grad():
        for tensor in (head.norm.weight, head.norm.bias, head.classifier.bias):
            tensor.normal_()
        head.norm.running_mean.normal_()
        head.norm.running_var.uniform_(0.5, 2.0)
    x = torch.randn(2, 3, 4, 5)
    rows = x.permute(0, 2, 3, 1).reshape(-1, 3)
    mean, var = rows.mean(dim=0), ((rows - rows.mean(dim=0)) ** 2).mean(dim=0)
    if not training:
        mean, var = head.norm.running_mean.clone(), head.norm.running_var.clone()
    found = head(x)
    for n in range(2):
        for i in range(4):
            for j in range(5):
                y = (x[n, :, i, j] - mean) / (var + 1e-5).sqrt()
                y = y * head.norm.weight + head.norm.bias
                wanted = head.classifier.weight[:, :, 0, 0] @ y + head.classifier.bias
                assert torch.allclose(found[n, :, i, j], wanted, atol=1e-5)
    assert LinearHead(3, 2).classifier.weight.std() < 0.05


@pytest.mark.parametrize("length, window, stride", [(10, 4, 3), (11, 4, 3), (4, 4, 3), (3, 4, 4)])
def test_windows_begin_where_mmsegs_do(length: int, window: int, stride: int) -> None:
    """Its grid: as many windows as cover the image, each moved back to end inside it."""
    count = max(length - window + stride - 1, 0) // stride + 1
    ends = [min(i * stride + window, length) for i in range(count)]
    assert window_starts(length, window, stride) == [max(end - window, 0) for end in ends]


def test_scores_of_windows_by_a_loop_over_pixels() -> None:
    torch.manual_seed(3)
    image = torch.randn(1, 3, 9, 13)

    def scores_of(part: Tensor) -> Tensor:  # depends on the window, not on the pixel alone
        return torch.stack([part.sum(dim=1) + part.mean(), part[:, 0] * part.amax()], dim=1)

    found = mean_over_windows(image, scores_of, window=5, stride=3)
    for y in range(9):
        for x in range(13):
            covering = []
            for top in window_starts(9, 5, 3):
                for left in window_starts(13, 5, 3):
                    if top <= y < top + 5 and left <= x < left + 5:
                        part = image[..., top : top + 5, left : left + 5]
                        covering.append(scores_of(part)[0, :, y - top, x - left])
            assert torch.allclose(found[0, :, y, x], torch.stack(covering).mean(dim=0), atol=1e-5)
    assert torch.equal(mean_over_windows(image, scores_of, 13, 7), scores_of(image))


def probe(backbone: str, **changes) -> Segmenter:
    arguments = {"num_classes": 3, "output_stride": 8, "contract_dilation": True, "dropout": 0.0}
    arguments |= {"head_convs": 2, "head_channels": 4, "head_dilation": 1, "head_concat": False}
    arguments |= {"aux_weight": 0.0, "aux_channels": 4, "crop_size": 32, "align_corners": False}
    arguments |= {"loss_over": "all", "head": "linear", "frozen": True, "preprocess": Preprocess()}
    return build_segmenter(backbone=backbone, architecture={}, **{**arguments, **changes})


@torch.no_grad()
def test_an_image_that_patches_do_not_tile_is_padded_and_cut() -> None:
    model = probe(VIT).eval()
    image = torch.randn(1, 3, 40, 50)
    (found,) = model.pixel_scores(image)
    larger = torch.zeros(1, 3, 48, 64)
    larger[..., :40, :50] = image
    assert torch.equal(padded(image, 16), larger)
    assert found.shape == (1, 3, 40, 50)
    assert torch.equal(found, model.pixel_scores(larger)[0][..., :40, :50])


@pytest.mark.parametrize(
    "backbone, head", [("tiny_resnet", "linear"), ("tiny_resnet", "fcn"), (VIT, "linear")]
)
def test_a_frozen_backbone_has_no_gradient_and_does_not_change(backbone: str, head: str) -> None:
    """Neither by the steps nor in the statistics of batch norm; everything in the head moves."""
    torch.manual_seed(4)
    model = probe(backbone, head=head, aux_weight=0.4 if head == "fcn" else 0.0).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    rng = np.random.default_rng(0)
    for _ in range(2):
        image = torch.from_numpy(rng.integers(0, 256, (3, 32, 32), np.uint8))
        mask = torch.from_numpy(rng.integers(0, 3, (32, 32), np.uint8))
        model.eval()
        model.train()  # as evaluations in between do
        sum(model([{"image": image, "mask": mask}] * 2).values()).backward()
        assert all(parameter.grad is None for parameter in model.backbone.parameters())
        optimizer.step()
    for name, value in model.state_dict().items():
        assert torch.equal(before[name], value) == name.startswith("backbone."), name
    assert not any(module.training for module in model.backbone.modules())


def test_a_fine_tuned_backbone_still_changes() -> None:
    model = probe("tiny_resnet", head="fcn", frozen=False).train()
    before = model.backbone.bn1.running_mean.clone()
    item = {"image": torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)}
    sum(model([{**item, "mask": torch.zeros(32, 32, dtype=torch.uint8)}] * 2).values()).backward()
    assert model.backbone.conv1.weight.grad is not None
    assert not torch.equal(before, model.backbone.bn1.running_mean)


def test_a_run_on_the_network_that_a_file_holds(
    semseg: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The config names none; the trial's own config does, and scores the trained probe again."""
    weights = random_weights(VIT, 0)
    write_weights(weights, tmp_path / "w.pth")
    (path,) = run_trials(
        TASK, TASK.prepare(request(tmp_path / "a", backbone="", weights=str(tmp_path / "w.pth")))
    )
    record = read_record(path)
    assert record["checkpoint"]["backbone"] == VIT and record["task"] == "semantic"
    state = model_of(tmp_path / "a")
    for name, tensor in weights.state.items():
        assert torch.equal(state[f"backbone.{name}"], tensor), name
    trained = str(path.parent / "model_final.pth")
    command = ["--output", str(tmp_path / "b"), "--weights", trained, "--eval-only"]
    assert train_det.main([*command, "--config", str(path.parent / "config.yaml")]) == 0
    assert f"sem_seg/mIoU {record['metrics']['sem_seg/mIoU']:.2f}" in capsys.readouterr().out
    assert train_det.main([*command, "--config", CONFIG, *TINY]) == 2
    assert "give its run's config.yaml, or add MODEL.BACKBONE.NAME" in capsys.readouterr().err


def test_resumed_run_ends_with_the_same_weights(
    semseg: Path, tmp_path: Path, interrupted_at: Interrupted
) -> None:
    run_trials(TASK, TASK.prepare(request(tmp_path / "a")))
    with interrupted_at(4):
        run_trials(TASK, TASK.prepare(request(tmp_path / "b", "TEST.EVAL_PERIOD", "2")))
    run_trials(TASK, TASK.prepare(request(tmp_path / "b", "TEST.EVAL_PERIOD", "2", resume=True)))
    expected, found = model_of(tmp_path / "a"), model_of(tmp_path / "b")
    assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.parametrize(
    "overrides, message",
    [
        ("MODEL.BACKBONE.FREEZE_AT 0", "FREEZE_AT 0 must be 5 with TRANSFER.SEMANTIC.HEAD linear"),
        ("MODEL.BACKBONE.FREEZE_AT 2", "FREEZE_AT 2 is not supported.*known: 0, 5"),
        ("TRANSFER.SEMANTIC.AUX_WEIGHT 0.4", "AUX_WEIGHT 0.4 has no effect with .*HEAD linear"),
        ("TRANSFER.SEMANTIC.HEAD mlp", "HEAD 'mlp' is not supported.*known: fcn, linear"),
        ("TRANSFER.SEMANTIC.WINDOW_STRIDE 97", "WINDOW_STRIDE 97 must be 0 to .*CROP_SIZE 96"),
        ("MODEL.BACKBONE.NAME resnet51", "NAME 'resnet51' is unknown for a linear probe"),
        ("MODEL.BACKBONE.NAME tiny_resnet TRANSFER.SEMANTIC.OUTPUT_STRIDE 16", "STRIDE 16 is not"),
    ],
)
def test_bad_values_name_their_key(overrides: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_segmentation_config(CONFIG, overrides.split())


def test_random_weights_and_strides_are_refused_with_the_remedy(
    semseg: Path, tmp_path: Path
) -> None:
    job = TASK.open_data(request(tmp_path, backbone=""))
    with pytest.raises(InputError, match="random.*add MODEL.BACKBONE.NAME and a name"):
        TASK.read_weights(job, 0)
    write_weights(random_weights("resnet18", 0), tmp_path / "w.pth")
    stride = ("TRANSFER.SEMANTIC.OUTPUT_STRIDE", "12")
    job = TASK.open_data(request(tmp_path, *stride, backbone="", weights=str(tmp_path / "w.pth")))
    with pytest.raises(InputError, match="OUTPUT_STRIDE 12 is not possible.*32, 16, 8, 4"):
        TASK.read_weights(job, 0)
    with pytest.raises(InputError, match="an FCN needs a ResNet"):
        probe(VIT, head="fcn")


def test_one_protocol_for_all_networks() -> None:
    base = protocol_sha256(load_segmentation_config(CONFIG))
    named = load_segmentation_config(CONFIG, ("MODEL.BACKBONE.NAME", VIT))
    assert protocol_sha256(named) == base
    windows = load_segmentation_config(CONFIG, ("TRANSFER.SEMANTIC.WINDOW_STRIDE", "0"))
    assert protocol_sha256(windows) != base


def test_published_schedule_by_hand() -> None:
    """DINOv3's, whose warm-up is linear, but for the last 4 % of it."""
    found = make_schedule(load_segmentation_config("ade20k_linear_probe.yaml"))
    for step in (1500, 1501, 20000, 39999):
        wanted = (1 + np.cos(np.pi * step / 40000)) / 2
        assert found.factor(step) == pytest.approx(wanted, rel=1e-9)
    for step in (0, 1, 700, 1499):
        theirs = (1 - (1 - step / 1500) * (1 - 1e-6)) * (1 - step / 40000)
        assert found.factor(step) == pytest.approx(theirs, rel=0.04)
