"""The steps of shipped recipes against optimizers and heads written out in numpy, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pretrain.common.config import load_config
from pretrain.optim.schedules import set_rates
from transfer.checkpoints.build import build_frozen_backbone
from transfer.checkpoints.read import read_weights
from transfer.classification.defaults import get_defaults
from transfer.classification.protocols.train_on_crops import _recipe
from transfer.classification.training.optimizer_and_schedule import Recipe
from transfer.training.loop import take_step

EPOCHS, BATCH = 4, 8


def shipped(name: str, batch: int = BATCH, epochs: int = EPOCHS) -> tuple[Recipe, float, dict]:
    """A config's recipe at a small batch and few epochs, with the rate that gives the same step
    size as its own batch, and its head."""
    cfg = load_config(f"{name}.yaml", get_defaults())
    rate = cfg.SOLVER.LR_PER_256[0] * cfg.SOLVER.BATCH_SIZE / batch
    cfg = load_config(
        f"{name}.yaml",
        get_defaults(),
        ["SOLVER.EPOCHS", str(epochs), "SOLVER.BATCH_SIZE", str(batch)]
        + [
            "TRAIN.MILESTONES",
            "(1, 2)",
            "TRAIN.WARMUP_EPOCHS",
            str(min(cfg.TRAIN.WARMUP_EPOCHS, 1)),
        ],
    )
    return _recipe(cfg), rate, {"head": cfg.TRAIN.HEAD, "init": cfg.TRAIN.HEAD_INIT}


def softmax_gradient(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    p[np.arange(len(labels)), labels] -= 1
    return p / len(labels)


def expected_rate(name: str, step: int, per_epoch: int) -> float:
    """The published schedules, of EPOCHS epochs, as a share of the full rate."""
    epoch, total = step // per_epoch, EPOCHS * per_epoch
    if name in ("moco", "vissl"):
        return 0.1 ** ((epoch >= 1) + (epoch >= 2))
    if name in ("simsiam", "vicreg", "barlow"):
        return 0.5 * (1 + math.cos(math.pi * epoch / EPOCHS))
    if name == "simclr":
        return 0.5 * (1 + math.cos(math.pi * step / total))
    if step < per_epoch:  # MAE, one epoch of warmup here
        return (step + 1) / per_epoch
    return 0.5 * (1 + math.cos(math.pi * (step - per_epoch) / (total - per_epoch)))


DECAY = {"simclr": 1e-6, "vicreg": 1e-6, "barlow": 1e-6}
RATE = {"moco": 30.0, "simclr": 1.6, "simsiam": 1.6, "vicreg": 0.02, "barlow": 0.3, "mae": 6.4}


@pytest.mark.parametrize("name", RATE)
def test_linear_recipes(name: str, make: Callable) -> None:
    recipe, rate, head = shipped(f"linear_imagenet_{name}")
    trainer, images = make(recipe, rate, **head, drop_last=name == "mae")
    layer = trainer.model.heads.heads[0]
    layer = layer[1] if name == "mae" else layer
    w, b = (p.detach().double().numpy().copy() for p in (layer.weight, layer.bias))
    assert np.all(b == 0) and (np.all(w == 0) == (name == "simclr"))
    assert name == "simclr" or 0.008 < w.std() < 0.012
    weights = read_weights("random", backbone="tiny_resnet", seed=0)
    trunk = build_frozen_backbone(weights)
    speeds, step = [np.zeros_like(w), np.zeros_like(b)], 0
    for epoch in range(EPOCHS):
        for batch in images.epoch(epoch):
            x = trunk(weights.preprocess.apply(batch.images)).double().numpy()
            if name == "mae":
                x = (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-6)
            delta = softmax_gradient(x @ w.T + b, batch.labels.numpy())
            gradients = [delta.T @ x, delta.sum(axis=0)]
            lr = RATE[name] * expected_rate(name, step, images.steps_per_epoch)
            for i, value in enumerate((w, b)):
                g = gradients[i] + DECAY.get(name, 0.0) * value
                adapts = name == "simsiam" or (name == "mae" and value.ndim == 2)
                if adapts and np.linalg.norm(value) > 0 and np.linalg.norm(g) > 0:
                    g = g * (0.001 * np.linalg.norm(value) / np.linalg.norm(g))
                speeds[i] = 0.9 * speeds[i] + g
                # SimCLR's momentum is Nesterov's (model_util.py, get_optimizer)
                value -= lr * (g + 0.9 * speeds[i] if name == "simclr" else speeds[i])
            step += 1
        trainer.epoch(images, epoch, EPOCHS)
        np.testing.assert_allclose(
            layer.weight.detach().numpy(), w, rtol=2e-3, atol=2e-4 * abs(w).max()
        )
        np.testing.assert_allclose(
            layer.bias.detach().numpy(), b, rtol=2e-3, atol=2e-4 * abs(b).max()
        )


def test_vissl(make: Callable) -> None:
    """Nesterov momentum, and decay of all but batch norm, on the head of the last layer; the head
    on pooled features without batch norm."""
    recipe, rate, head = shipped("linear_imagenet_vissl")
    trainer, images = make(recipe, rate, **head)
    assert trainer.model.heads.names == [
        "conv1",
        "res2",
        "res3",
        "res4",
        "res4avg",
        "res4avg_linear",
    ]  # the tiny one has 3 stages
    averaged, plain = trainer.model.heads.heads[4:]
    assert isinstance(averaged[0], torch.nn.BatchNorm2d) and averaged[2].in_features == 128
    assert isinstance(plain, torch.nn.Linear) and plain.in_features == 128
    norm, _, layer = trainer.model.heads.heads[3]
    values = [
        p.detach().double().clone() for p in (layer.weight, layer.bias, norm.weight, norm.bias)
    ]
    speeds, step = [torch.zeros_like(v) for v in values], 0
    for epoch in range(2):
        for batch in images.epoch(epoch):
            inputs = trainer.preprocess.apply(batch.images)
            x = trainer.model.features(inputs)[3].double()
            for v in values:
                v.requires_grad_(True)
            w, b, gamma, beta = values
            mean = x.mean(dim=(0, 2, 3), keepdim=True)
            var = ((x - mean) ** 2).mean(dim=(0, 2, 3), keepdim=True)
            normed = (x - mean) / (var + 1e-5).sqrt() * gamma[:, None, None] + beta[:, None, None]
            log_p = (normed.flatten(1) @ w.T + b).log_softmax(dim=1)
            loss = -log_p[range(len(x)), batch.labels].mean()
            gradients = torch.autograd.grad(loss, values)
            lr = 0.01 * expected_rate("vissl", step, images.steps_per_epoch)
            for i, decay in enumerate((5e-4, 5e-4, 0.0, 0.0)):
                g = gradients[i] + decay * values[i].detach()
                speeds[i] = 0.9 * speeds[i] + g
                values[i] = values[i].detach() - lr * (g + 0.9 * speeds[i])
            step += 1
        trainer.epoch(images, epoch, EPOCHS)
        for ours, theirs in zip((layer.weight, layer.bias, norm.weight, norm.bias), values):
            torch.testing.assert_close(ours.double(), theirs.detach(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "name, back, head",
    [
        ("semi_imagenet_1pct", 0.03, 0.08),
        ("semi_imagenet_10pct", 0.01, 0.1),
        ("semi_imagenet_1pct_barlow", 0.005, 0.5),
        ("semi_imagenet_10pct_barlow", 0.005, 0.5),
        ("semi_imagenet_1pct_swav", 0.02, 5.0),
        ("semi_imagenet_10pct_swav", 0.01, 0.2),
        ("semi_imagenet_1pct_simclr", 0.16, 0.16),
    ],
)
def test_fine_tuning_moves_both_parts_at_their_rates(
    name: str, back: float, head: float, make: Callable
) -> None:
    """The first step of every parameter is -rate * gradient, times LARS's ratio where it adapts."""
    recipe, rate, kind = shipped(name, batch=30)
    if name.endswith("simclr"):
        assert kind["init"] == "zero", "--zero_init_logits_layer=True in the README's command"
        kind["init"] = "normal"  # from zero, no gradient reaches the backbone at first
    trainer, images = make(recipe, rate, frozen=False, **kind)
    model = trainer.model
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    batch = next(images.epoch(0))
    model.train()
    set_rates(trainer.optimizer, trainer.schedule(0))
    take_step(trainer.losses, trainer.parts(batch), trainer.optimizer, "step 1", mean=False)
    for key, p in model.named_parameters():
        is_head = key.startswith("heads")
        gradient, expected = p.grad, head if is_head else back
        if name.endswith("simclr") and not is_head and p.ndim > 1:
            gradient = gradient * 0.001 * before[key].norm() / gradient.norm()
        moved = before[key] - expected * gradient
        torch.testing.assert_close(p.detach(), moved, rtol=1e-4, atol=1e-6, msg=key)


def test_published_settings_of_the_configs() -> None:
    """Rates at the recipe's own batch, batches and epochs, as the sources give them."""
    expected = {
        "linear_imagenet_simclr": (1.6, 4096, 90),
        "linear_imagenet_moco": (30.0, 256, 100),
        "linear_imagenet_simsiam": (1.6, 4096, 90),
        "linear_imagenet_vicreg": (0.02, 256, 100),
        "linear_imagenet_barlow": (0.3, 256, 100),
        "linear_imagenet_mae": (6.4, 16384, 90),
        "linear_imagenet_vissl": (0.01, 256, 28),
        "linear_places205_vissl": (0.01, 256, 14),
        "linear_inat18_vissl": (0.01, 256, 84),
        "semi_imagenet_1pct": (0.08, 256, 20),
        "semi_imagenet_10pct": (0.1, 256, 20),
    }
    for name, found in expected.items():
        solver = load_config(f"{name}.yaml", get_defaults()).SOLVER
        rate = solver.LR_PER_256[0] * solver.BATCH_SIZE / 256
        assert (pytest.approx(rate), solver.BATCH_SIZE, solver.EPOCHS) == found, name
    mae = load_config("linear_imagenet_mae.yaml", get_defaults())
    assert mae.BACKBONE.NAME == "vit_base_patch16_224", "what `--weights random` means"


def test_configs_say_what_they_are() -> None:
    root = Path(__file__).resolve().parents[4] / "configs" / "classification"
    for path in sorted(root.glob("*.yaml")):
        kinds = ("linear_imagenet_", "semi_", "finetune_")
        if not (path.stem.startswith(kinds) or path.stem.endswith("_vissl")):
            continue
        text = path.read_text()
        header = " ".join(line for line in text.splitlines() if line.startswith("#")).lower()
        for word in ("source", "hardware", "publish", "not reproduced"):
            assert word in header.replace("# ", ""), f"{path.name} says nothing of {word!r}"
