"""A file of every key format, written as its project writes it: real names, shapes and extras.

`CASES` lists them. Heads have the shapes of the projects' ResNet-50 (ViT-B) recipes. Heads,
momentum copies and queues are one zero, expanded, so a file is not larger than its trunk.
"""

from __future__ import annotations

import argparse
import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.transfer.checkpoints import formats_convnets as nets
from tests.transfer.checkpoints import formats_foreign as foreign

State = Mapping[str, Tensor]
OPTIMIZER = {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.03}]}
NUMPY_RATE = {"state": {}, "param_groups": [{"lr": np.float64(0.3)}]}


def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros((), dtype=dtype).expand(shape)


def linear(name: str, outputs: int, inputs: int, bias: bool = True) -> dict[str, Tensor]:
    extra = {f"{name}.bias": zeros(outputs)} if bias else {}
    return {f"{name}.weight": zeros(outputs, inputs), **extra}


def conv(name: str, outputs: int, inputs: int, kernel: int = 1) -> dict[str, Tensor]:
    return {
        f"{name}.weight": zeros(outputs, inputs, kernel, kernel),
        f"{name}.bias": zeros(outputs),
    }


def norm(name: str, width: int, affine: bool = True) -> dict[str, Tensor]:
    leaves = ("weight", "bias") if affine else ()
    values = {f"{name}.{leaf}": zeros(width) for leaf in (*leaves, "running_mean", "running_var")}
    return {**values, f"{name}.num_batches_tracked": zeros(dtype=torch.int64)}


def copy(prefix: str, state: State) -> dict[str, Tensor]:
    """The same names and shapes with other values: a momentum copy."""
    return {f"{prefix}{k}": zeros(*v.shape, dtype=v.dtype) for k, v in state.items()}


def put(prefix: str, state: State) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def mlp(name: str, widths: tuple[int, ...], bias: bool = True, last_norm: bool = False) -> dict:
    """Linear, norm, ReLU, ..., as nn.Sequential numbers them."""
    out: dict[str, Tensor] = {}
    for place, (inputs, outputs) in enumerate(zip(widths, widths[1:])):
        out |= linear(f"{name}.{3 * place}", outputs, inputs, bias)
        if place < len(widths) - 2 or last_norm:
            out |= norm(f"{name}.{3 * place + 1}", outputs)
    return out


def queue(prefix: str = "") -> dict[str, Tensor]:
    number = zeros(1, dtype=torch.int64)
    return {f"{prefix}queue": zeros(128, 65536), f"{prefix}queue_ptr": number}


def moco(state: State, heads: dict[str, Tensor], arch: str = "tiny_resnet") -> dict[str, Any]:
    content = put("module.encoder_q.", {**state, **heads})
    content |= copy("module.encoder_k.", {**state, **heads}) | queue("module.")
    return {"epoch": 200, "arch": arch, "state_dict": content, "optimizer": OPTIMIZER}


def moco_v3(state: State, heads: dict[str, Tensor], arch: str) -> dict[str, Any]:
    content = put("module.base_encoder.", {**state, **heads})
    content |= copy("module.momentum_encoder.", {**state, **heads})
    content |= mlp("module.predictor", (256, 4096, 256), bias=False)
    scaler = {"scale": 65536.0, "growth_factor": 2.0, "_growth_tracker": 3}
    top = {"epoch": 300, "arch": arch, "state_dict": content, "optimizer": OPTIMIZER}
    return {**top, "scaler": scaler}


def simsiam(state: State) -> dict[str, Any]:
    fc = mlp("fc", (2048, 2048, 2048, 2048), bias=False) | linear("fc.6", 2048, 2048)
    fc |= norm("fc.7", 2048, affine=False)
    content = put("module.encoder.", {**state, **fc})
    content |= mlp("module.predictor", (2048, 512, 2048), bias=False)
    content |= {"module.predictor.3.bias": zeros(2048)}
    return {"epoch": 100, "arch": "tiny_resnet", "state_dict": content, "optimizer": OPTIMIZER}


def swav_heads(prototypes: dict[str, Tensor]) -> dict[str, Tensor]:
    return mlp("module.projection_head", (2048, 2048, 128)) | put("module.prototypes.", prototypes)


ONE_SET = {"weight": zeros(3000, 128)}
THREE_SETS = {f"prototypes{i}.weight": zeros(3000, 128) for i in range(3)}


def dino(state: State, ddp_teacher: bool) -> dict[str, Any]:
    head = linear("mlp.0", 2048, 384) | linear("mlp.2", 2048, 2048) | linear("mlp.4", 256, 2048)
    head |= {"last_layer.weight_g": zeros(65536, 1), "last_layer.weight_v": zeros(65536, 256)}
    own = "module." if ddp_teacher else ""
    return {
        "student": copy("module.backbone.", state) | put("module.head.", head),
        "teacher": put(f"{own}backbone.", state) | put(f"{own}head.", head),
        "optimizer": NUMPY_RATE,
        "epoch": 100,
        "args": argparse.Namespace(arch="vit_small", patch_size=16, output_dir=Path("/x")),
        "dino_loss": OrderedDict(center=zeros(1, 65536)),
        "fp16_scaler": {"scale": 65536.0},
    }


def msn(state: State, whole: bool) -> dict[str, Any]:
    head = linear("fc.fc1", 2048, 384) | norm("fc.bn1", 2048) | linear("fc.fc2", 2048, 2048)
    head |= norm("fc.bn2", 2048) | linear("fc.fc3", 256, 2048)
    content = {"target_encoder": put("module.", {**state, **head}), "prototypes": zeros(1024, 256)}
    if whole:
        content |= {"encoder": copy("module.", {**state, **head}), "opt": OPTIMIZER, "epoch": 800}
    return content


def mae(state: State, decoder: bool) -> dict[str, Any]:
    model = dict(state)
    if decoder:
        model |= {"mask_token": zeros(1, 1, 512), "decoder_pos_embed": zeros(1, 197, 512)}
        model |= linear("decoder_embed", 512, 768) | linear("decoder_pred", 768, 512)
        model |= linear("decoder_blocks.0.attn.qkv", 1536, 512)
        model |= {"decoder_norm.weight": zeros(512), "decoder_norm.bias": zeros(512)}
    args = argparse.Namespace(model="mae_vit_base_patch16", norm_pix_loss=True)
    return {"model": model, "epoch": 799, "args": args} if decoder else {"model": model}


def vissl(state: State, prefix: str = "_feature_blocks.") -> dict[str, Any]:
    heads = linear("0.clf.0", 2048, 2048) | linear("1.clf.0", 128, 2048)
    loss = queue() | copy("moco_encoder.trunk._feature_blocks.", state)
    model = {"model": {"trunk": put(prefix, state), "heads": heads}, "meta": {"trunk": {}}}
    return {
        "phase_idx": 399,
        "train_phase_idx": 199,
        "loss": OrderedDict(loss),
        "classy_state_dict": {"train": True, "base_model": model, "loss": loss, "losses": [1.0]},
        "type": "consolidated",
    }


def pixpro(state: State) -> dict[str, Any]:
    projector = conv("linear1", 4096, 2048) | norm("bn1", 4096) | conv("linear2", 256, 4096)
    model = put("module.encoder.", state) | put("module.projector.", projector)
    model |= copy("module.encoder_k.", state) | put("module.projector_k.", projector)
    model |= conv("module.value_transform", 256, 256)
    return {"opt": argparse.Namespace(model="PixPro"), "model": model, "epoch": 100}


def pycontrast(state: State) -> dict[str, Any]:
    heads = linear("head.0", 2048, 2048) | linear("head.2", 128, 2048)
    jigsaw = linear("head_jig.fc1.0", 2048, 2048) | linear("head_jig.fc2", 128, 1152)
    model = put("module.encoder.", state) | put("module.", heads | jigsaw)
    average = copy("encoder.", state) | heads | jigsaw
    memory = {"memory": zeros(65536, 128)}
    return {"model": model, "contrast": memory, "model_ema": average, "epoch": 200}


def eman_byol(state: State) -> dict[str, Any]:
    neck = mlp("neck.mlp", (2048, 4096, 256), bias=False)
    content = put("module.online_net.backbone.", state) | put("module.online_net.", neck)
    content |= copy("module.target_net.backbone.", state) | put("module.target_net.", neck)
    content |= mlp("module.predictor.mlp", (256, 4096, 256), bias=False)
    return {"epoch": 200, "arch": "BYOLEMAN", "state_dict": content, "best_acc1": np.float64(72.2)}


def lightning(state: dict[str, Tensor], **more: Any) -> dict[str, Any]:
    top = {"epoch": 99, "global_step": 1000, "pytorch-lightning_version": "2.1.2"}
    return {**top, "state_dict": state, "loops": {}, "callbacks": {}, **more}


def solo_learn(state: State) -> dict[str, Any]:
    heads = mlp("projector", (2048, 4096, 256)) | mlp("momentum_projector", (2048, 4096, 256))
    heads |= mlp("predictor", (256, 4096, 256)) | linear("classifier", 1000, 2048)
    return lightning(put("backbone.", state) | copy("momentum_backbone.", state) | heads)


def lightly(state: State, own: str, other: str) -> dict[str, Any]:
    heads = mlp("projection_head.layers", (2048, 4096, 256), bias=False)
    heads |= mlp("prediction_head.layers", (256, 4096, 256), bias=False)
    heads |= linear("online_classifier.classification_head", 1000, 2048)
    return lightning(put(own, state) | copy(other, state) | heads)


def mm_densecl(state: State) -> dict[str, Any]:
    content = put("backbone.", state) | put("encoder_q.0.", state) | copy("encoder_k.0.", state)
    for name in ("encoder_q.1", "encoder_k.1"):
        content |= linear(f"{name}.mlp.0", 2048, 2048) | conv(f"{name}.mlp2.2", 128, 2048)
    content |= queue() | {"queue2": zeros(128, 65536), "queue2_ptr": zeros(1, dtype=torch.int64)}
    meta = {"config": "model = dict(\n    type='DenseCL',\n    pretrained=None)", "epoch": 200}
    return {"meta": meta, "state_dict": content, "optimizer": OPTIMIZER}


def mm_byol(state: State) -> dict[str, Any]:
    neck = linear("fc0", 4096, 2048) | norm("bn0", 4096) | linear("fc1", 256, 4096, False)
    content = put("backbone.", state) | put("neck.", neck) | put("head.predictor.", neck)
    content |= copy("target_net.module.0.", state) | put("target_net.module.1.", neck)
    content |= {"target_net.steps": zeros(dtype=torch.int64)}
    content |= {"data_preprocessor.mean": zeros(3, 1, 1), "data_preprocessor.std": zeros(3, 1, 1)}
    meta = {"cfg": "model = dict(\n    backbone=dict(depth=50), type='BYOL')", "epoch": 200}
    return {"meta": meta, "state_dict": content, "message_hub": {"log_scalars": {}}}


def mm_mae(state: State) -> dict[str, Any]:
    renamed = {}
    for name, tensor in state.items():
        name = name.replace("patch_embed.proj.", "patch_embed.projection.")
        name = name.replace("blocks.", "layers.").replace("mlp.fc1", "ffn.layers.0.0")
        name = name.replace("mlp.fc2", "ffn.layers.1").replace("norm1", "ln1")
        name = name.replace("norm2", "ln2")
        renamed[f"ln1.{name[5:]}" if name.startswith("norm.") else name] = tensor
    neck = {"neck.mask_token": zeros(1, 1, 512)} | linear("neck.decoder_embed", 512, 768)
    meta = {"cfg": "model = dict(type='MAE')", "epoch": 800}
    return {"meta": meta, "state_dict": put("backbone.", renamed) | neck}


def spark(state: State) -> dict[str, Any]:
    module: dict[str, Any] = put("sparse_encoder.sp_cnn.", state)
    module |= conv("dense_decoder.dec.0.up_sample", 768, 768, 4) | norm("densify_norms.0", 2048)
    module |= conv("densify_projs.0", 768, 2048) | {"mask_tokens.0": zeros(1, 2048, 1, 1)}
    module |= {"imn_m": zeros(1, 3, 1, 1), "imn_s": zeros(1, 3, 1, 1)}
    module |= {"norm_black": zeros(1, 3, 224, 224), "config": {"mask_ratio": 0.6}}
    top = {"args": "Args(...)", "arch": "resnet50", "epoch": 1599, "is_pretrain": True}
    return {**top, "arch": "tiny_resnet", "module": module}


def numeric(state: State) -> dict[str, Tensor]:
    places = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}
    return {f"{places[k.split('.')[0]]}{k[k.index('.'):]}": v for k, v in state.items()}


def mscn(state: State, backbone: str) -> dict[str, Any]:
    schedule = {"steps_per_epoch": 5, "total_steps": 10, "views_seen": 160, "images_seen": 80}
    model = put("trunk.", state) | mlp("projector", (2048, 2048, 128))
    top = {"format": "mscn-checkpoint", "version": 1, "method": "mscn", "backbone": backbone}
    rest = {"schedule": schedule, "step": 10, "config": "SEED: 3\n", "preprocess": {}}
    return {**top, "model": model, **rest}


# ---- the list


@dataclass(frozen=True)
class Case:
    """A file of a format.

    Attributes:
        format: how the file is detected, or what `--source` says if `forced`.
        backbone: the trunk's name.
        make: returns the file's content, from a state.
        kind: the kind of file.
        epochs: what the file states.
        lacks: ends of the canonical names that the file does not have, which become 1 (a bias: 0).
    """

    format: str
    backbone: str
    make: Callable[[State], Any]
    kind: str = "torch"
    epochs: int | None = None
    forced: bool = False
    lacks: tuple[str, ...] = ()


TINY, R50, VIT = "tiny_resnet", "resnet50", "vit_tiny_patch16_32"
V1 = linear("fc", 128, 2048)
V2 = linear("fc.0", 2048, 2048) | linear("fc.2", 128, 2048)
V3 = mlp("fc", (2048, 4096, 256), bias=False) | norm("fc.4", 256, affine=False)
V3_VIT = mlp("head", (768, 4096, 4096, 256), bias=False) | norm("head.7", 256, affine=False)
BARLOW = mlp("module.projector", (2048, 8192, 8192, 8192), bias=False)
VICREG = mlp("module.projector", (2048, 8192, 8192, 8192))
MAPS = mlp("module.maps_projector", (2048, 512, 512, 512)) | linear("module.classifier", 1000, 2048)


CASES: dict[str, Case] = {
    "mscn": Case("mscn", TINY, lambda s: mscn(s, TINY), epochs=2),
    "mscn ViT": Case("mscn", VIT, lambda s: mscn(s, "vit_tiny_patch16_224"), epochs=2),
    "moco_v1": Case("moco_v1", TINY, lambda s: moco(s, V1), epochs=200),
    "moco_v2": Case("moco_v2", TINY, lambda s: moco(s, V2), epochs=200),
    "MoCo-EMAN": Case("moco_v2", TINY, lambda s: moco(s, V2, "MoCoEMAN"), epochs=200),
    "mixmask": Case("mixmask", TINY, lambda s: moco(s, V2), epochs=200, forced=True),
    "moco_v3": Case("moco_v3", TINY, lambda s: moco_v3(s, V3, TINY), epochs=300),
    "moco_v3 ViT": Case("moco_v3", VIT, lambda s: moco_v3(s, V3_VIT, "vit_base"), epochs=300),
    "simsiam": Case("simsiam", TINY, simsiam, epochs=100),
    "barlow": Case(
        "barlow",
        TINY,
        lambda s: {
            "epoch": 1000,
            "model": put("module.backbone.", s) | BARLOW | norm("module.bn", 8192, affine=False),
            "optimizer": OPTIMIZER,
        },
        epochs=1000,
    ),
    "vicreg": Case(
        "vicreg",
        TINY,
        lambda s: {"epoch": 100, "model": put("module.backbone.", s) | VICREG},
        epochs=100,
    ),
    "vicregl": Case(
        "vicregl",
        TINY,
        lambda s: {"epoch": 300, "model": put("module.backbone.", s) | VICREG | MAPS},
        epochs=300,
    ),
    "vicreg_eval": Case(
        "vicreg_eval",
        TINY,
        lambda s: {
            "epoch": 100,
            "best_acc": argparse.Namespace(top1=73.0, top5=91.0),
            "model": put("module.0.", s) | linear("module.1", 1000, 2048),
        },
        epochs=100,
    ),
    "backbone file": Case("torchvision", TINY, dict),
    "generic": Case("generic", TINY, lambda s: put("net.", s) | linear("head", 9, 9)),
    "generic ViT": Case("generic", VIT, lambda s: put("net.", s) | linear("head", 9, 9)),
    "swav": Case(
        "swav",
        TINY,
        lambda s: {
            "epoch": 800,
            "state_dict": put("module.", s) | swav_heads(ONE_SET),
            "optimizer": NUMPY_RATE,
        },
        epochs=800,
    ),
    "swav released": Case("swav_bare", TINY, lambda s: put("module.", s) | swav_heads(ONE_SET)),
    "deepcluster_v2": Case(
        "deepcluster_v2",
        TINY,
        lambda s: {"epoch": 800, "state_dict": put("module.", s) | swav_heads(THREE_SETS)},
        epochs=800,
    ),
    "deepcluster_v2 released": Case(
        "deepcluster_v2_bare", TINY, lambda s: put("module.", s) | swav_heads(THREE_SETS)
    ),
    "dino ResNet": Case("dino", TINY, lambda s: dino(s, True), epochs=100),
    "dino ViT": Case("dino", VIT, lambda s: dino(s, False), epochs=100),
    "dino_student": Case(
        "dino_student",
        TINY,
        lambda s: {
            **dino(s, True),
            "student": put("module.backbone.", s),
            "teacher": copy("module.backbone.", s),
        },
        epochs=100,
        forced=True,
    ),
    "dino backbone": Case("timm", VIT, dict),
    "msn": Case("msn", VIT, lambda s: msn(s, whole=True), epochs=800),
    "msn released": Case("msn", VIT, lambda s: msn(s, whole=False)),
    "mae": Case("mae", VIT, lambda s: mae(s, decoder=True), epochs=800),
    "mae released": Case("mae", VIT, lambda s: mae(s, decoder=False)),
    "vissl": Case("vissl", TINY, vissl, epochs=200),
    "vissl extracted": Case(
        "vissl", TINY, lambda s: vissl(s, "base_model._feature_blocks."), epochs=200
    ),
    "vissl_converted": Case(
        "vissl_converted", TINY, lambda s: {"model_state_dict": put("_feature_blocks.", s)}
    ),
    "model_state_dict": Case(
        "model_state_dict",
        TINY,
        lambda s: {
            "epoch": 7,
            "model_state_dict": {**s, **linear("fc", 10, 128)},
            "optimizer_state_dict": OPTIMIZER,
            "loss": 0.5,
        },
    ),
    "pycontrast": Case("pycontrast", TINY, pycontrast, epochs=200),
    "pixpro": Case("pixpro", TINY, pixpro, epochs=100),
    "pixpro released": Case("pixpro", TINY, lambda s: {"model": pixpro(s)["model"]}),
    "eman_byol": Case("eman_byol", TINY, eman_byol, epochs=200),
    "densecl": Case("mm", TINY, mm_densecl, epochs=200),
    "densecl released": Case(
        "mm_extracted", TINY, lambda s: {"state_dict": dict(s), "author": "DenseCL"}
    ),
    "mm BYOL": Case("mm", TINY, mm_byol, epochs=200),
    "mm MAE": Case("mm", VIT, mm_mae, epochs=800),
    "solo_learn": Case("solo_learn", TINY, solo_learn, epochs=100),
    "lightly": Case(
        "lightly", TINY, lambda s: lightly(s, "backbone.", "teacher_backbone."), epochs=100
    ),
    "lightly numeric": Case(
        "lightly_flat",
        TINY,
        lambda s: lightly(numeric(s), "backbone.", "backbone_momentum.")["state_dict"],
    ),
    "lightly old MoCo": Case(
        "lightly_moco_old", TINY, lambda s: lightly(s, "query_backbone.", "backbone."), epochs=100
    ),
    "lightly_numeric": Case("lightly_numeric", TINY, numeric),
    "spark": Case("spark", TINY, spark, epochs=1600),
    "timm_train": Case(
        "timm_train",
        TINY,
        lambda s: {
            "epoch": 99,
            "arch": TINY,
            "state_dict": copy("", s),
            "state_dict_ema": {**s, **linear("fc", 1000, 2048)},
            "args": argparse.Namespace(lr=0.1),
        },
        epochs=100,
    ),
    "torchvision": Case("torchvision", TINY, lambda s: {**s, **linear("fc", 1000, 128)}),
    "timm ViT": Case("timm", VIT, lambda s: {**s, **linear("head", 1000, 192)}),
    "safetensors": Case("torchvision", TINY, dict, kind="safetensors"),
    "linear probe": Case(
        "state_dict",
        TINY,
        lambda s: {
            "epoch": 100,
            "state_dict": put("module.", {**s, **linear("fc", 1000, 2048)}),
            "best_acc1": torch.tensor(67.0),
        },
    ),
    "model": Case("model", TINY, lambda s: {"model": {**s, **linear("fc", 1000, 2048)}}),
    "simclr": Case("simclr", R50, foreign.simclr, kind="tensorflow"),
    "simclr_tf2": Case("simclr_tf2", R50, foreign.simclr_tf2, kind="tensorflow"),
    "simclr_torch": Case(
        "simclr_torch",
        TINY,
        lambda s: {"state_dict": {**s, **linear("fc", 1000, 2048)}},
        forced=True,
    ),
    "simclr_v2_torch": Case("simclr_v2_torch", R50, foreign.separius),
    "byol": Case("byol", R50, dict, kind="byol"),
    "msra": Case("msra", R50, lambda s: foreign.caffe2(s, folded=False), kind="pickle"),
    "msra_folded": Case(
        "msra_folded", R50, lambda s: foreign.caffe2(s, folded=True), kind="pickle"
    ),
    "msra_blobs": Case(
        "msra_blobs", R50, lambda s: {"blobs": foreign.caffe2(s, folded=True)}, kind="pickle"
    ),
    "detectron2": Case(
        "detectron2",
        TINY,
        lambda s: {
            "model": foreign.detectron2_names(s),
            "__author__": "torchvision",
            "matching_heuristics": True,
        },
        kind="pickle",
    ),
    "vitdet": Case(
        "vitdet",
        VIT,
        lambda s: {
            "model": {f"backbone.net.{k}": v.numpy() for k, v in s.items()},
            "__author__": "mscn",
        },
        kind="pickle",
    ),
}


ATTO, ATTO_V2 = "convnext_atto", "convnextv2_atto"
LITE = "tf_efficientnet_lite0"
NORM = ("head.norm.weight", "head.norm.bias")
CASES |= {
    "hf ResNet": Case("hf_resnet", TINY, nets.hf_resnet, kind="safetensors"),
    "hf ResNet classifier": Case(
        "hf_resnet",
        TINY,
        lambda s: put("resnet.", nets.hf_resnet(s)) | linear("classifier.1", 1000, 128),
    ),
    "hf timm wrapper": Case("hf_timm_wrapper", TINY, lambda s: put("timm_model.", s)),
    "sthalles": Case("sthalles_simclr", TINY, nets.sthalles, epochs=200),
    "Spijkervet": Case("spijkervet_simclr", TINY, nets.spijkervet),
    "Spijkervet Lightning": Case(
        "spijkervet_simclr_lightning",
        TINY,
        lambda s: nets.lightning(put("model.", nets.spijkervet(s))),
        epochs=100,
    ),
    "SupContrast": Case("supcontrast", TINY, nets.supcontrast, epochs=1000),
    "bolts SimCLR": Case("bolts", TINY, nets.bolts_simclr, epochs=100),
    "stable-pretraining": Case("stable_pretraining", TINY, nets.stable_pretraining, epochs=100),
    "stable-pretraining hf": Case(
        "stable_pretraining",
        TINY,
        lambda s: nets.stable_pretraining(nets.hf_resnet(s)),
        epochs=100,
    ),
    "stable-pretraining teacher": Case(
        "stable_pretraining",
        TINY,
        lambda s: nets.stable_pretraining_twice(s, "teacher", "student"),
        epochs=100,
    ),
    "stable-pretraining student": Case(
        "stable_pretraining_student",
        TINY,
        lambda s: nets.stable_pretraining_twice(s, "student", "teacher"),
        epochs=100,
        forced=True,
    ),
    "lightly-train timm": Case(
        "lightly_train", ATTO, lambda s: nets.lightly_train(s, ("",), "_model."), epochs=100
    ),
    "lightly-train torchvision": Case(
        "lightly_train",
        TINY,
        lambda s: nets.lightly_train(s, ("teacher_", "student_"), "_features."),
        epochs=100,
    ),
    "lightly-train torchvision ConvNeXt": Case(
        "lightly_train",
        ATTO,
        lambda s: nets.lightly_train(
            {k: v for k, v in nets.torchvision_convnext(s).items() if k.startswith("features.")},
            ("",),
            "_",
        ),
        epochs=100,
        lacks=NORM,
    ),
    "lightly-train distilled": Case(
        "lightly_train_student",
        TINY,
        lambda s: nets.lightly_train(s, ("student_",), "_model."),
        epochs=100,
    ),
    "mscn ConvNeXt": Case("mscn", ATTO, lambda s: mscn(s, ATTO), epochs=2),
    "timm ConvNeXt": Case("convnext", ATTO, lambda s: {**s, **linear("head.fc", 1000, 320)}),
    "timm ConvNeXt V2": Case("convnext", ATTO_V2, dict, kind="safetensors"),
    "timm FCMAE": Case(
        "convnext", ATTO_V2, lambda s: {k: v for k, v in s.items() if k not in NORM}, lacks=NORM
    ),
    "torchvision ConvNeXt": Case(
        "convnext",
        ATTO,
        lambda s: nets.torchvision_convnext(s) | linear("classifier.2", 1000, 320),
    ),
    "VICRegL ConvNeXt": Case(
        "convnext", ATTO, lambda s: nets.fair(nets.without_scale(s)), lacks=("gamma",)
    ),
    "VICRegL ConvNeXt full": Case(
        "vicregl",
        ATTO,
        lambda s: {"epoch": 300, "model": put("module.backbone.", nets.fair(s)) | VICREG | MAPS},
        epochs=300,
    ),
    "SparK ConvNeXt": Case(
        "spark",
        ATTO,
        lambda s: {
            "arch": "convnext_atto",
            "epoch": 1599,
            "module": put(
                "sparse_encoder.sp_cnn.",
                {k: v for k, v in nets.fair(s).items() if "norm." != k[:5]},
            )
            | conv("dense_decoder.dec.0.up_sample", 768, 768, 4),
        },
        epochs=1600,
        lacks=NORM,
    ),
    "ConvNeXt below model": Case("convnext_model", ATTO, lambda s: {"model": dict(s)}),
    "ConvNeXt below state_dict": Case(
        "convnext_state_dict", ATTO, lambda s: {"state_dict": put("module.", nets.fair(s))}
    ),
    "FAIR ConvNeXt": Case(
        "convnext_fair",
        ATTO,
        lambda s: {
            "model": nets.fair(s) | linear("head", 1000, 320),
            "model_ema": copy("", nets.fair(s)) | linear("head", 1000, 320),
            "epoch": 299,
        },
        epochs=300,
    ),
    "FAIR ConvNeXt V2": Case(
        "convnext_fair", ATTO_V2, lambda s: {"model": nets.fair(s) | linear("head", 1000, 320)}
    ),
    "FCMAE": Case("fcmae", ATTO_V2, nets.fcmae, epochs=800, lacks=NORM),
    "DINOv3 ConvNeXt": Case("dinov3_convnext", ATTO, nets.twice),
    "hf ConvNeXt": Case("hf_convnext", ATTO, nets.hf_convnext),
    "hf ConvNeXt V2": Case(
        "hf_convnext",
        ATTO_V2,
        lambda s: put("convnextv2.", nets.hf_convnext(s)) | linear("classifier", 1000, 320),
    ),
    "hf DINOv3 ConvNeXt": Case("hf_dinov3_convnext", ATTO, nets.hf_dinov3),
    "hf 4 DINOv3 ConvNeXt": Case("hf_dinov3_convnext", ATTO, lambda s: nets.hf_dinov3(s, head="")),
    "EfficientNet-Lite": Case(
        "efficientnet_lite", LITE, lambda s: nets.lukemelas(s) | linear("_fc", 1000, 1280)
    ),
    "mm ConvNeXt": Case("mm", ATTO, nets.mm_convnext, epochs=300),
}


def write(case: Case, folder: Path, state: State, checksum: Callable[[bytes], int]) -> Path:
    """Writes a case's file; returns what a user would give."""
    if case.kind == "tensorflow":
        return foreign.write_bundle(folder / "model.ckpt-1", case.make(state), checksum)
    if case.kind == "byol":
        return foreign.write_byol(folder / "byol.pkl", state)
    if case.kind == "safetensors":
        from safetensors.torch import save_file

        content = {name: value.contiguous() for name, value in case.make(state).items()}
        save_file(content, folder / "w.safetensors")
        return folder / "w.safetensors"
    if case.kind == "pickle":
        path = folder / "w.pkl"
        path.write_bytes(pickle.dumps(case.make(state), protocol=4))
        return path
    torch.save(case.make(state), folder / "w.pth.tar")
    return folder / "w.pth.tar"
