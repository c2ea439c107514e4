"""Formats of other frameworks: SimCLR's TensorFlow, BYOL's haiku, Caffe2's and Detectron2's.

Sources: google-research/simclr resnet.py, model_util.py and data_util.py; deepmind-research
byol/utils/{networks,checkpointing,dataset}.py; Detectron2 checkpoint/detection_checkpoint.py,
MODEL_ZOO.md and config/defaults.py; ports: tonylins/simclr-converter, Separius/SimCLRv2-Pytorch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pretrain.data.preprocess import Preprocess
from transfer.checkpoints.formats.key_format import CLASS, TEXT, Flat, KeyFormat, inside, variant
from transfer.checkpoints.provenance import Facts, no_facts, stated

# SimCLR's input is [0, 1] without mean and std
UNIT_RANGE = Preprocess((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
MSRA_PREPROCESS = Preprocess(
    (103.53, 116.28, 123.675), (1.0, 1.0, 1.0), channel_order="BGR", value_range=(0.0, 255.0)
)
# If a side is even, TensorFlow's "SAME" pads a strided window at its end only.
POOL = {"padding": "same_pool"}
SAME = {"padding": "same"}


def _view_byol(content: Flat) -> Flat:
    """Returns haiku's two-level mappings as flat ones: trunk, heads, and target network."""
    state = content["experiment_state"]
    state = state if isinstance(state, Mapping) else {}
    online = {**_flat(state.get("online_params")), **_flat(state.get("online_state"))}
    target = {**_flat(state.get("target_params")), **_flat(state.get("target_state"))}
    # Some released files have this name for the stem's convolution (chigur/byol-convert
    # convert.py).
    online = {k.replace("/initial_conv_1/", "/initial_conv/"): v for k, v in online.items()}
    trunk = {name: value for name, value in online.items() if name.startswith("res_net")}
    heads = {name: value for name, value in online.items() if name not in trunk}
    return {"trunk": trunk, "heads": heads, "momentum": target}


def _flat(modules: Any) -> dict[str, Any]:
    modules = modules if isinstance(modules, Mapping) else {}
    return {
        f"{module}/{leaf}": value
        for module, leaves in modules.items()
        for leaf, value in (leaves.items() if isinstance(leaves, Mapping) else ())
    }


_SIMCLR = KeyFormat(
    "simclr",
    "SimCLR v1, v2 (TensorFlow 1 checkpoint)",
    CLASS,
    kinds=("tensorflow",),
    prefixes=("base_model/",),
    layouts=("simclr",),
    drops={
        "optimizer slot": r".*/Momentum",
        "moving average copy": r"ema_model/.*",
        "projector": r"head_contrastive/.*",
        "classifier": r"head_supervised/.*",
        "step counter": r"global_step",
    },
    facts=stated("simclr", UNIT_RANGE, architecture=POOL),
)

MSRA_BIAS = r"(conv1|res\d_\d+_branch(1|2[abc]))_b"


def _facts_of_msra(content: Flat) -> Facts:
    """Detectron2 drops the file's biases before norms; a warning says so if one is not 0."""
    blobs = inside(content, ("blobs",)) or content
    largest = max(
        (float(v.abs().max()) for k, v in blobs.items() if re.fullmatch(MSRA_BIAS, str(k))),
        default=0.0,
    )
    warning = f"biases of convolutions, up to {largest:.1e}, are dropped, as Detectron2 does"
    return stated(
        "supervised",
        MSRA_PREPROCESS,
        architecture={"stride_in_1x1": True},
        warnings=(warning,) if largest else (),
    )(content)


_MSRA = KeyFormat(
    "msra",
    "Detectron2's MSRA R-50, R-101 (Caffe2 names)",
    TEXT,
    kinds=("pickle",),
    layouts=("msra",),
    needs=(r"res\d_\d+_branch\w+_bn_(gamma|beta|running_mean|running_var)",),
    drops={
        "classifier": r"(fc1000|pred)_[wb]",
        "bias of a convolution, which Detectron2 drops too": MSRA_BIAS,
        "optimizer slot": r".*_momentum|lr",
    },
    facts=_facts_of_msra,
)

FOREIGN = (
    _SIMCLR,
    variant(
        _SIMCLR,
        "simclr_tf2",
        title="SimCLR (TensorFlow 2 checkpoint)",
        prefixes=("model/resnet_model/",),
        layouts=("simclr_tf2",),
        drops={
            "optimizer slot": r"optimizer/.*|.*/\.OPTIMIZER_SLOT/.*",
            "projector": r"model/_projection_head/.*",
            "classifier": r"model/supervised_head/.*",
            "step counter": r"(global_step|save_counter)/.*",
        },
    ),
    KeyFormat(
        "simclr_v2_torch",
        "SimCLR v2 (Separius' conversion)",
        CLASS,
        kinds=("torch",),
        containers=(("resnet",), ("head",)),
        layouts=("separius",),
        drops={"classifier": r"fc\..*", "projector": r"head\..*"},
        facts=stated("simclr_v2", UNIT_RANGE, architecture=POOL),
    ),
    KeyFormat(
        "simclr_torch",
        "SimCLR v1 (tonylins' conversion)",
        TEXT,
        kinds=("torch",),
        containers=(("state_dict",),),
        drops={"classifier": r"fc\..*"},
        facts=stated("simclr", UNIT_RANGE, architecture=POOL),
        forced=True,
    ),
    KeyFormat(
        "byol",
        "BYOL (DeepMind's pickle)",
        CLASS,
        kinds=("pickle",),
        containers=(("trunk",), ("heads",), ("momentum",)),
        top=("experiment_state",),
        view=_view_byol,
        prefixes=("res_net50/~/", "res_net101/~/", "res_net152/~/"),
        layouts=("byol",),
        drops={
            "moving average's own state": r".*_ema/(hidden|counter)",
            "projector, predictor and classifier": r"heads\..*",
            "momentum copy": r"momentum\..*",
        },
        facts=stated("byol", architecture=SAME),
    ),
    _MSRA,
    variant(
        _MSRA,
        "msra_folded",
        title="Detectron 1's MSRA R-50, R-101 (norms folded)",
        layouts=("msra_folded",),
        needs=(r"res\d_\d+_branch\w+_bn_s",),
    ),
    variant(
        _MSRA,
        "msra_blobs",
        title="Detectron 1's trained models",
        containers=(("blobs",),),
        layouts=("msra_folded",),
        needs=(r"res\d_\d+_branch\w+_bn_s",),
    ),
    KeyFormat(
        "vitdet",
        "Detectron2's ViTDet layout",
        CLASS,
        kinds=("pickle", "torch"),
        containers=(("model",),),
        layouts=("vitdet",),
        facts=no_facts,
    ),
    KeyFormat(
        "detectron2",
        "Detectron2",
        CLASS,
        kinds=("pickle", "torch"),
        containers=(("model",),),
        top=("__author__",),
        layouts=("detectron2",),
        drops={"classifier": r"stem\.fc\..*"},
        facts=no_facts,
    ),
)
