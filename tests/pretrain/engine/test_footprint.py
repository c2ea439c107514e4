"""A pretraining step's cost: the same on fake and on real tensors; what the config changes."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pretrain.common.config import load_config
from pretrain.common.step_cost import LiveBytes
from pretrain.data.build import branches
from pretrain.defaults import get_defaults
from pretrain.engine.footprint import run_needs, step_cost
from pretrain.engine.loop import clip_gradients
from pretrain.engine.run import build_solver
from pretrain.methods.build import build_method


@pytest.mark.parametrize("method", ["mscn", "moco_v2"])
def test_fake_tensors_cost_what_real_ones_do(method: str) -> None:
    """In float32, the precision that a CPU has here."""
    name = f"{method}_r18_tiny100.yaml"
    cfg = load_config(
        name, get_defaults(), ["SOLVER.BATCH_SIZE", "16", "SOLVER.BF16", "False"], "pretrain"
    )
    cfg = cfg.clone()
    cfg.defrost()
    cfg.METHOD.BN_GROUP = 0
    real = build_method(cfg, num_classes=1000).to(memory_format=torch.channels_last)
    optimizer, memory = build_solver(cfg, real), LiveBytes()
    views = [torch.rand(16, 3, 64, 64) for _ in branches(cfg)]
    crops = [torch.zeros(16, 3, 64, 64, dtype=torch.uint8) for _ in views]

    def step() -> None:
        outcome = real(views, branches(cfg), generator=torch.Generator())
        optimizer.zero_grad(set_to_none=True)
        outcome["loss"].backward()
        clip_gradients(optimizer, cfg.SOLVER.CLIP_NORM)
        optimizer.step()
        real.after_step(0, 10)

    memory.track([list(real.parameters()), list(real.buffers()), views, crops])
    with memory:
        step()
        memory.peak = memory.live
        with FlopCounterMode(display=False) as counted:
            step()
    found = step_cost(cfg)
    assert found.flops == counted.get_total_flops()
    assert found.peak_bytes == pytest.approx(memory.peak, rel=0.01)


def test_fewer_images_or_bits_take_less() -> None:
    words = ("SOLVER.BATCH_SIZE", "64")
    cfg = load_config("mscn_r18_tiny100.yaml", get_defaults(), words)
    whole, of_two = step_cost(cfg), step_cost(cfg, 2)
    assert of_two.flops / whole.flops == pytest.approx(0.5, abs=0.01)
    assert of_two.peak_bytes < whole.peak_bytes
    full = load_config("mscn_r18_tiny100.yaml", get_defaults(), (*words, "SOLVER.BF16", "False"))
    assert 0.5 < whole.peak_bytes / step_cost(full).peak_bytes < 0.8


def test_parts_and_checkpointing_are_counted() -> None:
    """A part's memory, and the forward pass a second time; so that the doctor knows what fits."""
    words = ("SOLVER.BATCH_SIZE", "256")
    once = step_cost(load_config("simclr_r18_tiny100.yaml", get_defaults(), words))
    for more in (("SOLVER.ACCUMULATE", "4"), ("BACKBONE.CHECKPOINTING", "True")):
        cfg = load_config("simclr_r18_tiny100.yaml", get_defaults(), (*words, *more))
        found = step_cost(cfg)
        assert 1.3 < found.flops / once.flops < 1.35, more
        assert found.peak_bytes < 0.8 * once.peak_bytes, more


def test_the_loss_meets_the_images_of_all_processes() -> None:
    """SimCLR's queries of a process meet the keys of all. Barlow Twins' matrix is over all images
    too, but a process has only its share of the rows, so that both together cancel."""
    # The similarities of two views, and the gradients of both sides, with 32 images more.
    assert flops_of_a_second_process("simclr", 128) == 3 * 2 * (2 * 32) ** 2 * 128
    assert flops_of_a_second_process("barlow", 1024) == 0
    assert not torch.distributed.is_initialized()


def flops_of_a_second_process(method: str, width: int) -> float:
    """What a step on 32 images costs more if a second process has another 32."""
    costs = []
    for images, processes in ((64, 2), (32, 1)):
        words = ("SOLVER.BATCH_SIZE", str(images), "BACKBONE.NAME", "tiny_resnet")
        cfg = load_config(f"{method}_r18_tiny100.yaml", get_defaults(), words)
        assert cfg.METHOD.PROJECTOR.OUT_DIM == width
        costs.append(step_cost(cfg, processes).flops)
    return costs[0] - costs[1]


def test_the_steps_of_a_run() -> None:
    small = ["SOLVER.BATCH_SIZE", "64", "BACKBONE.NAME", "tiny_resnet"]
    cfg = load_config("mscn_r50.yaml", get_defaults(), small)
    needs = run_needs(cfg, 2, None)
    assert needs.steps == 100 * (1_281_167 // 64) and needs.images == 32 and needs.half
    assert run_needs(cfg, 2, 640).steps == 1000
    own = load_config("own_mscn_r18.yaml", get_defaults(), small)
    assert run_needs(own, 1, None).steps is None
