"""UPerNet: its head, maps, rates and test passes against slow versions, and complete runs.

N images, C channels, K classes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from PIL import Image
from torch import Tensor, nn

from pretrain.common.errors import InputError
from pretrain.data.preprocess import Preprocess
from tests.transfer.conftest import Interrupted
from tools import train_det
from transfer.checkpoints.build import build_trunk
from transfer.detection.config import protocol_sha256
from transfer.detection.data.transforms import Geometry
from transfer.results.record import read_record
from transfer.segmentation.config import load_segmentation_config
from transfer.segmentation.data import SemanticSample
from transfer.segmentation.drop_path import add_drop_path
from transfer.segmentation.fcn import Segmenter, build_segmenter
from transfer.segmentation.feature_maps import maps_at
from transfer.segmentation.pyramid import Pyramid
from transfer.segmentation.task import SegmentationTask
from transfer.segmentation.training import make_segmenter
from transfer.segmentation.transforms import InferenceMapper
from transfer.segmentation.uper_head import UperHead
from transfer.training.build import make_optimizer, make_schedule
from transfer.trials.loop import run_trials
from transfer.trials.task import Request

TASK = SegmentationTask()
CONFIG = "digits_upernet.yaml"
VIT = "vit_tiny_patch16_224"
TINY = (
    "SOLVER.IMS_PER_BATCH 2 SOLVER.MAX_ITER 5 SOLVER.WARMUP_ITERS 2 SOLVER.CHECKPOINT_PERIOD 3 "
    "TRANSFER.LOG_PERIOD 2 DATALOADER.NUM_WORKERS 0 TRANSFER.SEMANTIC.CROP_SIZE 64 "
    "TRANSFER.SEMANTIC.WINDOW_STRIDE 0 "
    "TRANSFER.SEMANTIC.TEST_SCALES (0.5,) TRANSFER.DRAW_DETECTIONS 1 "
    "TRANSFER.SEMANTIC.HEAD_CHANNELS 8 TRANSFER.SEMANTIC.AUX_CHANNELS 8 "
    "DATASETS.TRAIN semseg:digits_semseg:train DATASETS.TEST semseg:digits_semseg:val"
).split()


def request(output: Path, *overrides: str, **changes) -> Request:
    options = {"weights": "random", **changes}
    return Request(CONFIG, output=str(output), overrides=(*TINY, *overrides), **options)


def upernet(backbone: str, **changes) -> Segmenter:
    arguments = {"num_classes": 3, "output_stride": 8, "contract_dilation": True, "dropout": 0.0}
    arguments |= {"head_convs": 2, "head_channels": 4, "head_dilation": 6, "head_concat": False}
    arguments |= {"aux_weight": 0.4, "aux_channels": 4, "crop_size": 32, "align_corners": False}
    arguments |= {"loss_over": "all", "head": "uper", "preprocess": Preprocess()}
    arguments |= {"vit_blocks": (3, 5, 7, 11)}
    return build_segmenter(backbone=backbone, architecture={}, **{**arguments, **changes})


def with_random_norms(module: nn.Module) -> nn.Module:
    """In evaluation mode, with statistics and factors that a wrong order would show."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2.0)
            nn.init.normal_(part.weight)
            nn.init.normal_(part.bias)
    return module.eval()


def bilinear(x: Tensor, height: int, width: int) -> Tensor:
    """Place by place, with the edges of both grids matched."""
    rows, columns = x.shape[-2:]
    found = x.new_zeros(*x.shape[:2], height, width)
    for i in range(height):
        for j in range(width):
            y = min(max((i + 0.5) * rows / height - 0.5, 0), rows - 1)
            z = min(max((j + 0.5) * columns / width - 0.5, 0), columns - 1)
            top, left = int(y), int(z)
            below, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
            upper = x[..., top, left] * (1 - z + left) + x[..., top, right] * (z - left)
            lower = x[..., below, left] * (1 - z + left) + x[..., below, right] * (z - left)
            found[..., i, j] = upper * (1 - y + top) + lower * (y - top)
    return found


def averaged(x: Tensor, cells: int) -> Tensor:
    """Means over a grid of cells, which overlap if they do not tile the map."""
    rows, columns = x.shape[-2:]
    found = x.new_zeros(*x.shape[:2], cells, cells)
    for i in range(cells):
        for j in range(cells):
            part = x[..., i * rows // cells : -(-(i + 1) * rows // cells), :]
            part = part[..., j * columns // cells : -(-(j + 1) * columns // cells)]
            found[..., i, j] = part.mean(dim=(2, 3))
    return found


def applied(layer: nn.Sequential, x: Tensor) -> Tensor:
    """Convolution, batch norm and ReLU, of which the first has the layer's own reach."""
    conv, norm, _ = layer
    y = F.conv2d(x, conv.weight, padding=conv.kernel_size[0] // 2)
    shape = (1, -1, 1, 1)
    y = (y - norm.running_mean.view(shape)) / (norm.running_var.view(shape) + 1e-5).sqrt()
    return (y * norm.weight.view(shape) + norm.bias.view(shape)).clamp(min=0)


@torch.no_grad()
def test_head_by_hand_on_odd_sizes() -> None:
    """The steps of the article's figure, written out for three maps."""
    torch.manual_seed(0)
    head = with_random_norms(UperHead((3, 4, 5), 2, 6))
    fine, middle, coarse = (
        torch.randn(2, c, *s) for c, s in ((3, (13, 11)), (4, (7, 6)), (5, (4, 3)))
    )
    parts = [coarse]
    for cells, layer in zip((1, 2, 3, 6), head.pooled):
        parts.append(bilinear(applied(layer, averaged(coarse, cells)), 4, 3))
    top = applied(head.after_pooling, torch.cat(parts, dim=1))
    second = applied(head.laterals[1], middle) + bilinear(top, 7, 6)
    first = applied(head.laterals[0], fine) + bilinear(second, 13, 11)
    fused = torch.cat(
        [
            applied(head.smoothing[0], first),
            bilinear(applied(head.smoothing[1], second), 13, 11),
            bilinear(top, 13, 11),
        ],
        dim=1,
    )
    fused = applied(head.fusion, fused)
    wanted = torch.einsum("kc,nchw->nkhw", head.classifier.weight[:, :, 0, 0], fused)
    wanted = wanted + head.classifier.bias.view(1, -1, 1, 1)
    found = head([fine, middle, coarse])
    assert found.shape == (2, 6, 13, 11)
    assert torch.allclose(found, wanted, atol=1e-4)


@torch.no_grad()
def test_a_vits_maps_are_those_of_its_blocks_rescaled() -> None:
    torch.manual_seed(1)
    trunk = build_trunk(VIT, {}).eval()
    image = torch.randn(1, 3, 64, 96)
    tokens = trunk.norm_pre(trunk._pos_embed(trunk.patch_embed(image)))
    outputs = []
    for block in trunk.blocks:
        tokens = block(tokens)
        outputs.append(tokens[:, 1:].transpose(1, 2).unflatten(2, (4, 6)))
    pyramid = with_random_norms(Pyramid(trunk, VIT, (2, 3, 6, 10)))
    maps = maps_at(trunk, image, pyramid.places)
    for found, place in zip(maps, (2, 3, 6, 10)):
        assert torch.allclose(found, outputs[place], atol=1e-5), place
    rescaled = pyramid(maps)
    assert [tuple(x.shape) for x in rescaled] == [
        (1, 192, side, 3 * side // 2) for side in (16, 8, 4, 2)
    ]
    # A transposed convolution of stride 2 writes each place's own 2 x 2 places.
    up = pyramid[1]
    for i, j in ((0, 0), (3, 5)):
        for a in (0, 1):
            for b in (0, 1):
                wanted = maps[1][0, :, i, j] @ up.weight[:, :, a, b] + up.bias
                assert torch.allclose(rescaled[1][0, :, 2 * i + a, 2 * j + b], wanted, atol=1e-4)
    assert torch.equal(rescaled[2], maps[2])
    assert torch.equal(rescaled[3][0, :, 1, 2], maps[3][0, :, 2:4, 4:6].amax(dim=(1, 2)))
    first, norm, gelu, second = pyramid[0]
    assert torch.equal(rescaled[0], second(gelu(norm(first(maps[0])))))


@torch.no_grad()
def test_maps_of_convolutional_networks() -> None:
    torch.manual_seed(2)
    image = torch.randn(1, 3, 65, 97)
    resnet = build_trunk("resnet18", {}).eval()
    pyramid = Pyramid(resnet, "resnet18", ())
    stages = list(resnet.forward_stages(image).values())[1:]
    found = pyramid(maps_at(resnet, image, pyramid.places))
    assert all(torch.equal(a, b) for a, b in zip(found, stages, strict=True))
    assert pyramid.widths == [64, 128, 256, 512] and len(list(pyramid.parameters())) == 0
    convnext = build_trunk("convnext_atto", {}).eval()
    pyramid = Pyramid(convnext, "convnext_atto", ())
    x, found = convnext.stem(image), pyramid(maps_at(convnext, image, pyramid.places))
    for stage, of_stage, width in zip(convnext.stages, found, pyramid.widths, strict=True):
        x = stage(x)
        wanted = (x - x.mean(dim=1, keepdim=True)) / (
            x.var(dim=1, keepdim=True, unbiased=False) + 1e-6
        ).sqrt()
        assert of_stage.shape[1] == width and torch.allclose(of_stage, wanted, atol=1e-4)
    lite = build_trunk("tf_efficientnet_lite0", {}).eval()
    pyramid = Pyramid(lite, "tf_efficientnet_lite0", ())
    shapes = [tuple(x.shape[1:]) for x in maps_at(lite, image, pyramid.places)]
    assert shapes == [(24, 17, 25), (40, 9, 13), (112, 5, 7), (320, 3, 4)]


@pytest.mark.parametrize("backbone", [VIT, "tiny_resnet", "convnext_atto"])
def test_every_size_of_image_trains_and_every_trained_tensor_has_a_gradient(backbone: str) -> None:
    """An odd size is padded; what has no gradient would stop a training on several GPUs."""
    torch.manual_seed(3)
    model = upernet(backbone, drop_path=0.0).train()
    rng = np.random.default_rng(0)
    batch = []
    for height, width in ((33, 50), (17, 40)):
        image = torch.from_numpy(rng.integers(0, 256, (3, height, width), np.uint8))
        mask = torch.from_numpy(rng.integers(0, 3, (height, width), np.uint8))
        batch.append({"image": image, "mask": mask, "height": height, "width": width})
    losses = model(batch)
    assert set(losses) == {"loss_sem_seg", "loss_aux"}
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    model.eval()
    maps = [model([item])[0] for item in batch]
    assert [tuple(found.shape) for found in maps] == [(33, 50), (17, 40)]


def test_the_second_head_sees_the_map_of_stride_16() -> None:
    model = upernet(VIT)
    assert model.aux_head.convs[0][0].in_channels == 192 and model.side_unit == 32
    seen: list[Tensor] = []
    model.aux_head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model.train().scores(torch.randn(2, 3, 64, 96))
    assert seen[0].shape == (2, 192, 4, 6)
    resnet = upernet("resnet18", output_stride=32)
    assert resnet.aux_head.convs[0][0].in_channels == 256 and resnet.side_unit == 1


def test_layer_decay_and_weight_decay_by_name() -> None:
    """MAE's: rate times 0.65 per block from the top, no decay on 1-d tensors, positions, token."""
    cfg = load_segmentation_config(CONFIG)
    torch.manual_seed(0)
    model = make_segmenter(cfg, Preprocess(), {})
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = make_optimizer(cfg, model).param_groups
    found = {names[id(p)]: (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert set(found) == {name for name, p in model.named_parameters() if p.requires_grad}
    for name, (rate, decay) in found.items():
        layer = 13  # of a ViT of 12 blocks: what is above them
        if name.startswith("backbone.blocks."):
            layer = 1 + int(name.split(".")[2])
        elif name.startswith("backbone."):
            layer = 0
        assert rate == pytest.approx(0.001 * 0.65 ** (13 - layer)), name
        tensor = model.get_parameter(name)
        free = tensor.dim() == 1 or name in ("backbone.pos_embed", "backbone.cls_token")
        assert decay == (0.0 if free else 0.05), name


def test_layer_decay_of_a_convnext_has_the_groups_of_a_detectors() -> None:
    words = "MODEL.BACKBONE.NAME convnext_atto TRANSFER.LR_LAYER_DECAY 0.5".split()
    cfg = load_segmentation_config(CONFIG, words)
    model = make_segmenter(cfg, Preprocess(), {})
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = make_optimizer(cfg, model).param_groups
    rates = {names[id(p)]: g["lr"] / 0.001 for g in groups for p in g["params"]}
    decays = {names[id(p)]: g["weight_decay"] for g in groups for p in g["params"]}
    for name, power in {  # five groups below the heads: 6 blocks of the third stage make two
        "backbone.stem.0.weight": 6,
        "backbone.stages.0.blocks.0.conv_dw.weight": 5,
        "backbone.stages.1.downsample.1.weight": 4,
        "backbone.stages.2.blocks.0.conv_dw.weight": 3,
        "backbone.stages.2.blocks.3.conv_dw.weight": 2,
        "backbone.stages.3.blocks.1.conv_dw.weight": 1,
        "pyramid.0.weight": 0,
        "head.classifier.weight": 0,
    }.items():
        assert rates[name] == pytest.approx(0.5**power), name
    assert decays["backbone.stages.0.blocks.0.gamma"] == decays["pyramid.0.weight"] == 0.0
    assert decays["backbone.stages.0.blocks.0.conv_dw.weight"] == 0.05


@pytest.mark.parametrize("backbone, count", [(VIT, 12), ("convnext_atto", 12)])
def test_drop_path_rises_over_the_blocks_as_timms(backbone: str, count: int) -> None:
    import timm

    trunk = build_trunk(backbone, {})
    add_drop_path(trunk, 0.3)
    theirs = timm.create_model(
        "vit_tiny_patch16_224" if backbone == VIT else backbone, drop_path_rate=0.3
    )
    rates = [
        {n: m.drop_prob for n, m in network.named_modules() if hasattr(m, "drop_prob")}
        for network in (trunk, theirs)
    ]
    assert rates[0] == pytest.approx(rates[1]) and len(rates[0]) >= count - 1


def test_test_passes_are_a_loop_over_scales_and_flips(tmp_path: Path) -> None:
    """The probabilities of each size and its mirror image are averaged at the original size."""
    torch.manual_seed(4)
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (37, 53, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(rng.integers(0, 3, (37, 53), np.uint8)).save(tmp_path / "m.png")
    sample = SemanticSample(str(tmp_path / "a.png"), str(tmp_path / "m.png"), "a")
    model = with_random_norms(upernet("tiny_resnet", test_flip=True))
    nn.init.normal_(model.head.classifier.weight)
    item = InferenceMapper(32, 1000, 3, (0.5, 1.5))(sample, 0)
    (found,) = model([item])
    total = torch.zeros(3, 37, 53)
    for height, width in ((16, 23), (48, 69)):
        view = Geometry(37, 53, height, width, flip=False).image(pixels)
        for mirrored in (False, True):
            image = torch.from_numpy((view[:, ::-1] if mirrored else view).copy()).permute(2, 0, 1)
            with torch.no_grad():
                scores = model.pixel_scores(model._input(image))[0]
                scores = F.interpolate(scores, (37, 53), mode="bilinear")[0]
            total += (scores.flip(-1) if mirrored else scores).softmax(dim=0)
    assert torch.equal(found, total.argmax(dim=0).to(torch.uint8))
    assert len(found.unique()) > 1
    model.test_flip = False
    plain = InferenceMapper(32, 1000, 3)(sample, 0)
    assert "scaled" not in plain
    one = InferenceMapper(32, 1000, 3, (1.0,))(sample, 0)
    assert torch.equal(plain["image"], one["scaled"][0])
    assert torch.equal(model([plain])[0], model([one])[0])


def test_a_run_resumes_to_the_same_weights_and_scores_again(
    semseg: Path, tmp_path: Path, interrupted_at: Interrupted, capsys: pytest.CaptureFixture[str]
) -> None:
    (path,) = run_trials(TASK, TASK.prepare(request(tmp_path / "a")))
    with interrupted_at(4):
        run_trials(TASK, TASK.prepare(request(tmp_path / "b")))
    run_trials(TASK, TASK.prepare(request(tmp_path / "b", resume=True)))
    expected, found = (
        torch.load(tmp_path / name / "trial_0" / "model_final.pth", weights_only=True)["model"]
        for name in "ab"
    )
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    record = read_record(path)
    assert record["checkpoint"]["backbone"] == VIT
    trained = str(path.parent / "model_final.pth")
    command = ["--output", str(tmp_path / "c"), "--weights", trained, "--eval-only"]
    assert train_det.main([*command, "--config", str(path.parent / "config.yaml")]) == 0
    assert f"sem_seg/mIoU {record['metrics']['sem_seg/mIoU']:.2f}" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("name", [VIT, "build_tiny_resnet_backbone"])
def test_a_few_images_are_learned_by_heart(semseg: Path, tmp_path: Path, name: str) -> None:
    """Maps that were added in the wrong places could not be."""
    words = "SOLVER.MAX_ITER 150 SOLVER.BASE_LR 0.003 SOLVER.IMS_PER_BATCH 3 "
    words += "TRANSFER.LR_LAYER_DECAY 1.0 TRANSFER.SEMANTIC.DROP_PATH 0.0 "
    words += "TRANSFER.SEMANTIC.DROPOUT 0.0 TRANSFER.SEMANTIC.OUTPUT_STRIDE 8 "
    words += "TRANSFER.LIMIT_IMAGES 3 TRANSFER.SEMANTIC.CROP_SIZE 128 SOLVER.CHECKPOINT_PERIOD 0 "
    words += "TRANSFER.SEMANTIC.TEST_SCALES () TRANSFER.SEMANTIC.HEAD_CHANNELS 64 "
    words += f"DATASETS.TEST semseg:digits_semseg:train MODEL.BACKBONE.NAME {name}"
    (path,) = run_trials(TASK, TASK.prepare(request(tmp_path, *words.split())))
    metrics = read_record(path)["metrics"]
    assert metrics["sem_seg/mIoU"] > 60 and metrics["sem_seg/pACC"] > 97


@pytest.mark.parametrize(
    "overrides, message",
    [
        (
            "MODEL.BACKBONE.NAME vit_tiny",
            "NAME 'vit_tiny' is unknown for .*HEAD uper; known: build",
        ),
        ("MODEL.BACKBONE.NAME any", "NAME 'any' is unknown for .*HEAD uper"),
        (
            "TRANSFER.SEMANTIC.VIT_BLOCKS (3,5,7,12)",
            "VIT_BLOCKS .* four blocks of vit_tiny.* 0 to 11",
        ),
        ("TRANSFER.SEMANTIC.VIT_BLOCKS (5,3,7,11)", "VIT_BLOCKS .* in increasing order"),
        ("TRANSFER.SEMANTIC.HEAD_CONCAT True", "HEAD_CONCAT True has no effect with .*HEAD uper"),
        ("TRANSFER.SEMANTIC.DROP_PATH 1.0", "DROP_PATH 1.0 must be from 0 to below 1"),
        ("TRANSFER.SEMANTIC.POLY_POWER 0.0", "POLY_POWER 0.0 must be above 0"),
        ("TRANSFER.SEMANTIC.TEST_SCALES (0.0,1.0)", "TEST_SCALES .* must be above 0"),
        ("TRANSFER.LR_LAYER_DECAY 1.5", "LR_LAYER_DECAY 1.5 must be above 0 and at most 1"),
        ("TRANSFER.OPTIMIZER SGD", "LR_LAYER_DECAY 0.65 needs .*uper on a ViT .* AdamW; set 1"),
        ("TRANSFER.CONVNET.DROP_PATH 0.1", "CONVNET.DROP_PATH 0.1 is not supported"),
        ("SOLVER.IMS_PER_BATCH 1", "IMS_PER_BATCH 1 is too small .* set 2 or more"),
        ("MODEL.BACKBONE.NAME build_tiny_resnet_backbone", "LR_LAYER_DECAY 0.65 needs"),
        (
            "MODEL.BACKBONE.NAME build_tiny_resnet_backbone TRANSFER.LR_LAYER_DECAY 1.0",
            "DROP_PATH 0.1 needs a ViT or a ConvNeXt, not .*build_tiny_resnet_backbone; set 0",
        ),
    ],
)
def test_bad_values_name_their_key(overrides: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_segmentation_config(CONFIG, overrides.split())


def test_too_few_images_for_each_process_are_refused_before_any_starts() -> None:
    """Each of them has a batch norm of its own after the pooling to one place."""
    words = "MODEL.RESNETS.NORM BN SOLVER.IMS_PER_BATCH 4 SOLVER.REFERENCE_WORLD_SIZE 0"
    cfg = load_segmentation_config(CONFIG, words.split())
    SegmentationTask().check_processes(cfg, 2)
    with pytest.raises(InputError, match="IMS_PER_BATCH 4 is too small .* set 8 or more"):
        SegmentationTask().check_processes(cfg, 4)
    shared = load_segmentation_config(CONFIG, [*words.split(), "MODEL.RESNETS.NORM", "SyncBN"])
    SegmentationTask().check_processes(shared, 4)


def test_keys_of_upernet_are_refused_for_other_heads() -> None:
    for words in ("DROP_PATH 0.1", "VIT_BLOCKS (0,1,2,3)"):
        key, value = f"TRANSFER.SEMANTIC.{words}".split()
        for name, head in (("digits_fcn.yaml", "fcn"), ("digits_linear_probe.yaml", "linear")):
            with pytest.raises(InputError, match=f"{key} .*(no effect|needs).*"):
                load_segmentation_config(name, (key, value))


def sha(cfg: CfgNode) -> str:
    return protocol_sha256(cfg)


def test_each_key_is_of_the_protocol_when_it_is_changed() -> None:
    base = sha(load_segmentation_config(CONFIG))
    for words in (
        "TRANSFER.SEMANTIC.VIT_BLOCKS (2,5,8,11)",
        "TRANSFER.SEMANTIC.DROP_PATH 0.2",
        "TRANSFER.SEMANTIC.POLY_POWER 0.9",
        "TRANSFER.SEMANTIC.TEST_SCALES (1.0,1.5)",
        "TRANSFER.SEMANTIC.TEST_FLIP True",
        "TRANSFER.LR_LAYER_DECAY 0.7",
        "TRANSFER.WEIGHT_DECAY_POS_EMBED 0.1",
    ):
        assert sha(load_segmentation_config(CONFIG, words.split())) != base, words


def test_published_schedules_by_hand() -> None:
    """mmseg's: a linear warm-up and then a line to 0, and for ResNets its polynomial."""
    mae = load_segmentation_config("ade20k_upernet_mae.yaml")
    found = make_schedule(mae)
    for step in (0, 1, 700, 1499):
        assert found.factor(step) == pytest.approx(1e-6 + (1 - 1e-6) * step / 1500)
    for step in (1500, 50000, 159999):
        assert found.factor(step) == pytest.approx(1 - (step - 1500) / 158500)
    resnet = make_schedule(load_segmentation_config("ade20k_upernet_resnet.yaml"))
    for step in (0, 1000, 159999):
        wanted = (0.01 - 1e-4) * (1 - step / 160000) ** 0.9 + 1e-4
        assert 0.01 * resnet.factor(step) == pytest.approx(wanted, rel=1e-9)
