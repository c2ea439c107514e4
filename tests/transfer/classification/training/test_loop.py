"""Steps in parts and in several processes, tests of a model, and the input of a ViT."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from pretrain.common.errors import InputError
from pretrain.common.sync_batchnorm import convert_sync_batchnorm
from tests.two_processes import run_in_two
from transfer.classification.crops import ImageTransform
from transfer.classification.splits import Split
from transfer.classification.training.optimizer_and_schedule import Recipe, make_optimizer
from transfer.training.loop import take_step

from .conftest import CPU, SIZE, build, make_folder, splits_of

SGD = Recipe(2, 10, nesterov=True, weight_decay=1e-3, backbone_lr_ratio=0.1)
TEST = ImageTransform(SIZE, SIZE)
KINDS = {
    "probe": {"frozen": True},
    "probe in chunks": {"frozen": True, "chunk": 3},
    "layers": {"frozen": True, "head": "layers"},
    "whole": {"frozen": False},
}


def trained(root: Path, kind: str) -> tuple[dict[str, Tensor], Tensor]:
    """State and test after two epochs; batch norm in training sees all processes' images."""
    trainer, images = build(root, SGD, 2.0 if kind != "whole" else 0.2, **KINDS[kind])
    if dist.is_initialized():  # as training.run does, before the model is distributed
        trainer.model.heads = convert_sync_batchnorm(trainer.model.heads, CPU)
        if kind == "whole":
            trainer.model.trunk = convert_sync_batchnorm(trainer.model.trunk, CPU)
        trainer.optimizer = make_optimizer(SGD, trainer.model)
        trainer.__post_init__()
    for epoch in range(2):
        trainer.epoch(images, epoch, 2)
    hits = trainer.evaluate(splits_of(root)[1], TEST, 5, 0)
    state = trainer.model.state_dict()
    return {key: value for key, value in state.items() if "num_batches" not in key}, hits


def one_of_two(rank: int, folder: str) -> None:
    torch.save({kind: trained(Path(folder), kind) for kind in KINDS}, f"{folder}/{rank}.pt")


def test_two_processes_equal_one(tmp_path: Path) -> None:
    """Also with a last batch that does not divide: 33 images in batches of 10."""
    make_folder(tmp_path, train=11, test=3)
    run_in_two(one_of_two, tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    for kind in KINDS:
        state, hits = trained(tmp_path, kind)
        assert torch.equal(first[kind][1], second[kind][1]) and first[kind][1].shape == hits.shape
        for key, value in state.items():
            assert torch.equal(first[kind][0][key], second[kind][0][key]), f"{kind}: {key}"
            torch.testing.assert_close(
                first[kind][0][key],
                value,
                rtol=2e-3,
                atol=2e-4,
                msg=lambda text: f"{kind}: {key}: {text}",
            )


def test_chunks_of_a_frozen_backbone_move_nothing(folder: Path) -> None:
    whole, chunks = (trained(folder, kind)[0] for kind in ("probe", "probe in chunks"))
    for key, value in whole.items():
        torch.testing.assert_close(chunks[key], value, rtol=1e-4, atol=1e-6)


def test_norm_batch_gives_each_part_statistics_of_its_own(make: Callable) -> None:
    """The gradient is the mean of the parts', each normalised alone (MAE's head)."""
    recipe = Recipe(1, 30, momentum=0.0)
    trainer, images = make(recipe, 30.0, head="batchnorm_linear", norm_batch=10)
    layer = trainer.model.heads.heads[0][1]
    batch = next(images.epoch(0))
    features = trainer.model.features(trainer.preprocess.apply(batch.images))[0]
    weight = layer.weight.detach().clone().requires_grad_(True)
    losses = []
    for rows in torch.arange(30).split(10):
        x = features[rows]
        x = (x - x.mean(dim=0)) / (x.var(dim=0, unbiased=False) + 1e-6).sqrt()
        losses.append(torch.nn.functional.cross_entropy(x @ weight.T, batch.labels[rows]))
    torch.stack(losses).mean().backward()
    trainer.optimizer.param_groups[0]["lr"] = trainer.optimizer.param_groups[1]["lr"] = 0.5
    trainer.model.train()
    before = layer.weight.detach().clone()
    take_step(trainer.losses, trainer.parts(batch), trainer.optimizer, "step 1", mean=False)
    torch.testing.assert_close(layer.weight.detach(), before - 0.5 * weight.grad)
    assert int(trainer.model.heads.heads[0][0].num_batches_tracked) == 3


def test_evaluate_is_the_models_ranking(make: Callable, folder: Path) -> None:
    trainer, _ = make(SGD, 0.1)
    test = splits_of(folder)[1]
    hits = trainer.evaluate(test, TEST, 5, 0)
    images = torch.stack([TEST.apply(test.images.read(i)) for i in range(len(test))])
    logits = trainer.model.eval()(trainer.preprocess.apply(images))[0]
    assert torch.equal(hits[:, 0, 0], logits.argmax(dim=1) == test.labels)
    assert hits.shape == (12, 1, 2) and bool(hits[:, 0, 1].all())  # three classes: always among 5


def test_evaluate_names_an_unreadable_image(make: Callable, tmp_path: Path) -> None:
    make_folder(tmp_path)
    test: Split = splits_of(tmp_path)[1]
    Path(test.images.name(7)).write_bytes(b"no image")
    trainer, _ = make(SGD, 0.1)
    with pytest.raises(InputError, match="unreadable image in .*test_dark_3.png"):
        trainer.evaluate(test, TEST, 5, 0)
