"""From a config to a method: class, heads and settings of every name, and one step of each."""

from __future__ import annotations

import pytest
import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from pretrain.backbones.heads import build_predictor, build_projector
from pretrain.data.build import branches, view_sizes
from pretrain.defaults import get_defaults
from pretrain.methods.all_methods import BASES, METHODS, MOMENTUM, QUEUED
from pretrain.methods.barlow import BarlowTwins
from pretrain.methods.build import build_method, loss_name
from pretrain.methods.byol import BYOL
from pretrain.methods.mae import MAE
from pretrain.methods.moco import MoCo
from pretrain.methods.moco_v3 import MoCoV3
from pretrain.methods.msn import MSN
from pretrain.methods.pairs import all_pairs, cross_pairs
from pretrain.methods.simclr import SimCLR
from pretrain.methods.simsiam import SimSiam
from pretrain.methods.supervised import Supervised
from pretrain.methods.vicreg import VICReg

CLASSES: dict[str, type[nn.Module]] = {
    "simclr": SimCLR,
    "moco_v1": MoCo,
    "moco_v2": MoCo,
    "moco_v3": MoCoV3,
    "simsiam": SimSiam,
    "byol": BYOL,
    "vicreg": VICReg,
    "barlow": BarlowTwins,
    "supervised": Supervised,
    "msn": MSN,
    "mae": MAE,
}
CASES = [(name, "simclr") for name in METHODS if name != "mscn"]
CASES += [("mscn", base) for base in BASES]
PREDICTIVE = ("simsiam", "byol", "moco_v3")
IMAGES = 4


def config(name: str, base: str = "simclr", *overrides: object) -> CfgNode:
    """A small config of a method, with as many views as it takes."""
    needs, cfg = METHODS[name], get_defaults()
    small = ["METHOD.NAME", name, "METHOD.BASE", base, "METHOD.PROJECTOR.HIDDEN_DIM", 16]
    small += ["METHOD.PROJECTOR.OUT_DIM", 8, "METHOD.PREDICTOR.HIDDEN_DIM", 12]
    small += ["METHOD.QUEUE_SIZE", 3 * IMAGES, "METHOD.MSN.PROTOTYPES", 6, "VIEWS.SIZE", 32]
    small += ["METHOD.MAE.DECODER_DIM", 16, "METHOD.MAE.DECODER_DEPTH", 1]
    small += ["METHOD.MAE.DECODER_HEADS", 2, "VIEWS.FOCAL.SIZE", 16]
    small += ["VIEWS.A.COUNT", 1 if needs.a is None else needs.a]
    small += ["VIEWS.B.COUNT", 2 if needs.b is None else needs.b]
    small += ["VIEWS.FOCAL.COUNT", int(needs.focal)]
    small += ["BACKBONE.NAME", "test_vit" if needs.vit else "tiny_resnet"]
    small += ["BACKBONE.PATCH_SIZE", 8 if needs.vit else 0]
    cfg.merge_from_list([*small, *overrides])
    return cfg


def step_input(cfg: CfgNode) -> tuple[list[Tensor], list[int]]:
    generator = torch.Generator().manual_seed(2)
    sizes = view_sizes(cfg)
    views = [torch.randn(IMAGES, 3, size, size, generator=generator) for size in sizes]
    return views, branches(cfg)


def one_step(cfg: CfgNode) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    method = build_method(cfg, num_classes=3)
    labels = torch.tensor([0, 2, 1, 2])
    generator = torch.Generator().manual_seed(0)
    loss = method(*step_input(cfg), labels=labels, generator=generator)["loss"]
    loss.backward()
    method.after_step(0, 10)
    return method, loss.detach()


def test_every_base_and_name_is_covered() -> None:
    assert set(CLASSES) == set(METHODS) - {"mscn"} and set(BASES) < set(CLASSES)
    assert set(QUEUED) < set(MOMENTUM) < set(CLASSES)


@pytest.mark.parametrize("name, base", CASES)
def test_a_step_trains_every_trainable_weight(name: str, base: str) -> None:
    cfg = config(name, base)
    method, loss = one_step(cfg)
    assert type(method) is CLASSES[loss_name(cfg)] and loss.isfinite()
    # DistributedDataParallel would wait for a weight that gets no gradient.
    idle = [n for n, p in method.named_parameters() if p.requires_grad and p.grad is None]
    assert idle == []
    assert method.trunk.out_dim == (64 if METHODS[name].vit else 128)
    held = {n.split(".")[0] for n, _ in method.named_parameters()}
    targets = {part for part in held if part.startswith("target_")}
    assert bool(targets) == (loss_name(cfg) in MOMENTUM)
    assert ("predictor" in held) == (loss_name(cfg) in PREDICTIVE)
    assert hasattr(method, "queue") == (loss_name(cfg) in QUEUED)


@pytest.mark.parametrize("name, base", CASES)
def test_heads_are_in_the_methods_style(name: str, base: str) -> None:
    cfg = config(name, base, "METHOD.PROJECTOR.LAYERS", 2)
    method, style = build_method(cfg, num_classes=3), loss_name(cfg)
    if style in ("supervised", "mae"):
        assert not hasattr(method, "projector")
        return
    styled = "moco" if style in QUEUED else style
    expected = build_projector(
        method.trunk.out_dim, hidden_dim=16, out_dim=8, layers=2, style=styled
    )
    head = method.anchor_projector if style == "msn" else method.projector
    assert str(head) == str(expected)
    if style in PREDICTIVE:
        assert str(method.predictor) == str(build_predictor(8, hidden_dim=12, style=style))


@pytest.mark.parametrize("base", BASES)
def test_mscn_of_two_views_is_its_base(base: str) -> None:
    plain, loss = one_step(config(base))
    masked, other = one_step(config("mscn", base, "VIEWS.B.COUNT", 1, "MASK.RATIO", (0.0,)))
    assert torch.equal(loss, other)
    state = masked.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in plain.state_dict().items())


@pytest.mark.parametrize("base", BASES)
def test_pairs_and_passes(base: str) -> None:
    every = ("METHOD.PAIRS", "all", "METHOD.JOINT_FORWARD", False)
    assert build_method(config("mscn", base, *every)).pairing is all_pairs
    assert build_method(config("mscn", base, *every)).joint_forward is False
    assert build_method(config("mscn", base)).pairing is cross_pairs
    assert build_method(config(base, "simclr", *every)).pairing is cross_pairs
    assert build_method(config(base)).joint_forward is True


@pytest.mark.parametrize("name", ["moco_v1", "moco_v2"])
def test_settings_of_moco(name: str) -> None:
    method = build_method(config(name, "simclr", "METHOD.TEMPERATURE", 0.2))
    assert method.temperature == 0.2 and tuple(method.queue.shape) == (8, 12)
    assert method.shuffle is False and method.online == 0
    assert build_method(config(name, "simclr", "METHOD.BN_GROUP", 2)).shuffle is True
    # The more masked branch is online: B by default, A when masks are turned round.
    assert build_method(config("mscn", name)).online == 1
    turned = ("VIEWS.A.MASK_PROB", 1.0, "VIEWS.B.MASK_PROB", 0.5)
    assert build_method(config("mscn", name, *turned)).online == 0
    assert build_method(config("mscn", name, "MASK.RATIO", (0.0,))).online == 0


@pytest.mark.parametrize("name", MOMENTUM)
def test_settings_of_momentum(name: str) -> None:
    options = ("METHOD.MOMENTUM", 0.9, "METHOD.MOMENTUM_SCHEDULE", "linear", "SOLVER.STRETCH", 1.25)
    momentum = build_method(config(name, "simclr", *options)).momentum
    assert (momentum.base, momentum.schedule, momentum.stretch) == (0.9, "linear", 1.25)
    assert build_method(config(name)).momentum.at(3, 10) == 0.999


def test_settings_of_other_losses() -> None:
    weights = ("METHOD.VICREG.WEIGHTS", (1.0, 2.0, 3.0))
    assert build_method(config("vicreg", "simclr", *weights)).weights == (1.0, 2.0, 3.0)
    weight = ("METHOD.BARLOW.OFF_DIAGONAL", 0.3)
    assert build_method(config("barlow", "simclr", *weight)).off_diagonal_weight == 0.3
    for name in ("simclr", "moco_v3", "msn"):
        assert build_method(config(name, "simclr", "METHOD.TEMPERATURE", 0.7)).temperature == 0.7
    classifier = build_method(config("supervised"), num_classes=5).classifier
    assert (classifier.in_features, classifier.out_features) == (128, 5)


def test_settings_of_msn() -> None:
    node = "METHOD.MSN."
    options = [node + "SHARPENING", 0.5, node + "PATCH_DROP", 0.4, node + "SINKHORN", False]
    options += [node + "MEAN_ENTROPY", 2.0, node + "ENTROPY", 0.5]
    method = build_method(config("msn", "simclr", *options))
    assert (method.sharpening, method.patch_drop, method.balance) == (0.5, 0.4, False)
    assert method.weights == (2.0, 0.5) and tuple(method.prototypes.shape) == (6, 8)


def test_settings_of_mae() -> None:
    options = ["METHOD.MAE.MASK_RATIO", 0.5, "METHOD.MAE.NORMALIZE_PIXELS", False]
    method = build_method(config("mae", "simclr", *options))
    assert (method.mask_ratio, method.normalize_pixels, method.patch) == (0.5, False, 8)
    assert tuple(method.decoder.position.shape) == (1, 1 + 16, 16)
    assert len(method.decoder.blocks) == 1 and method.decoder.blocks[0].attn.num_heads == 2


def test_settings_of_the_trunk() -> None:
    plain = build_method(config("simclr")).trunk.layer1[0].bn2.weight
    zero = build_method(config("simclr", "simclr", "BACKBONE.ZERO_INIT_RESIDUAL", True)).trunk
    assert plain.all() and not zero.layer1[0].bn2.weight.any()
    vit = build_method(config("msn", "simclr", "BACKBONE.PATCH_SIZE", 4)).trunk
    assert tuple(vit.pos_embed.shape) == (1, 1 + 64, 64)
