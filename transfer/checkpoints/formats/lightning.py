"""Formats of toolboxes that train with Lightning: stable-pretraining, lightly-train, bolts.

Read in their sources at the commits of 2026: stable-pretraining (module.py, methods/, backbone/
utils.py TeacherStudentWrapper and vit.py MaskedEncoder, callbacks/probe.py), lightly-train
(_checkpoint.py, _methods/, _models/embedding_model.py and {timm,torchvision}/), lightning-bolts
(models/self_supervised/, transforms/dataset_normalizations.py). Trunks are of any library.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pretrain.common.errors import InputError
from pretrain.data.preprocess import Preprocess
from transfer.checkpoints.formats.key_format import TEXT, KeyFormat, inside, variant
from transfer.checkpoints.formats.toolboxes import facts_of_lightning
from transfer.checkpoints.names.layouts import TRUNKS
from transfer.checkpoints.provenance import Facts, no_facts

_STATE = (("state_dict",),)
# Classifiers of torchvision, timm and transformers; `head.norm` and torchvision's `classifier.0`
# belong to the trunk.
_CLASSIFIER = r"(fc\..*|head\.fc\..*|head\.(weight|bias)|classifier\.(2\.)?(weight|bias))"


def _silent(content: Mapping[str, Any]) -> Facts:
    """Returns Lightning's epochs, and a warning that the file does not state its preprocessing."""
    return facts_of_lightning(content)._replace(warnings=no_facts(content).warnings)


def _one_of_two(taken: str, other: str) -> Callable[[Mapping[str, Any]], Facts]:
    """Returns facts with a line that says which copy is read, if the file has two."""

    def facts(content: Mapping[str, Any]) -> Facts:
        found = _silent(content)
        if not any(f".{taken}." in str(name) for name in content["state_dict"]):
            return found
        what = {"teacher": "averaged weights", "student": "trained weights"}[taken]
        line = f"the {what} (the {taken}) are read; --source {other} reads the other copy"
        return found._replace(warnings=(*found.warnings, line))

    return facts


_SPT_DROPS = {
    "probe or metric of a callback": r"callbacks_(modules|metrics)\..*",
    "settings of the average": r"(backbone|encoder)\.(base_|final_)?ema_coefficient",
    "second name of the patches": r"encoder\.((student|teacher)\.)?patch_embed\..*",
    "mask token": r"encoder\.((student|teacher)\.)?mask_token",
    "classifier": rf"(backbone|encoder)\.((student|teacher)\.)?{_CLASSIFIER}",
    "outside the trunk": r"(?!(backbone|encoder)\.).*",
}
_SPT = KeyFormat(
    "stable_pretraining",
    "stable-pretraining (of two copies the teacher)",
    TEXT,
    containers=_STATE,
    prefixes=(
        *("backbone.teacher.", "encoder.teacher.vit.", "encoder.teacher."),
        *("backbone.", "encoder.vit.", "encoder."),
    ),
    layouts=TRUNKS,
    needs=(
        r"callbacks_(modules|metrics)\..*|(backbone|encoder)\.(student|teacher)\..*|sigreg\..*",
    ),
    drops={"student copy": r"(backbone|encoder)\.student\..*", **_SPT_DROPS},
    facts=_one_of_two("teacher", "stable_pretraining_student"),
)

_WRAPPED = "embedding_model.wrapped_model."
_COPIES = ("teacher", "student")
# The trunk may be timm's module, the children of torchvision's ResNet, or the layers of its
# ConvNeXt.
_PARTS = ("_model.", "_features.", "_")


def _facts_of_lightly_train(content: Mapping[str, Any]) -> tuple[Facts, bool]:
    """Returns mean and std, stored next to the weights, and whether there are two copies."""
    found = _silent(content)
    stated = inside(content, ("lightly_train", "normalize_args")) or {}
    try:
        preprocess = Preprocess(
            tuple(float(v) for v in stated["mean"]), tuple(float(v) for v in stated["std"])
        )
        found = found._replace(preprocess=preprocess, warnings=())
    except (KeyError, TypeError, ValueError):
        pass
    names = [str(name) for name in content["state_dict"]]
    return found, all(any(n.startswith(f"{copy}_{_WRAPPED}") for n in names) for copy in _COPIES)


def _facts_of_teacher(content: Mapping[str, Any]) -> Facts:
    found, two = _facts_of_lightly_train(content)
    line = "the averaged weights (the teacher) are read, as lightly-train exports them"
    return found._replace(warnings=(*found.warnings, line)) if two else found


def _facts_of_student(content: Mapping[str, Any]) -> Facts:
    found, two = _facts_of_lightly_train(content)
    line = "a distillation: the student is read, its teacher is left out"
    return found._replace(warnings=(*found.warnings, line)) if two else found


# bolts normalises by the statistics of the data set.
_BOLTS_INPUT = {
    "imagenet2012": Preprocess(),
    "cifar10": Preprocess(
        tuple(v / 255 for v in (125.3, 123.0, 113.9)), tuple(v / 255 for v in (63.0, 62.1, 66.7))
    ),
    "stl10": Preprocess((0.43, 0.42, 0.39), (0.27, 0.26, 0.27)),
}


def _settings_of_bolts(content: Mapping[str, Any]) -> Mapping[str, Any]:
    return inside(content, ("hyper_parameters",)) or {}


def _facts_of_bolts(content: Mapping[str, Any]) -> Facts:
    found, dataset = _silent(content), str(_settings_of_bolts(content).get("dataset"))
    if dataset not in _BOLTS_INPUT:
        return found
    return found._replace(preprocess=_BOLTS_INPUT[dataset], warnings=())


def _check_bolts(content: Mapping[str, Any]) -> None:
    """Refuses its stem for small images, which has a ResNet's tensors but no pooling."""
    if _settings_of_bolts(content).get("maxpool1") is False:
        raise InputError("its hyper_parameters say maxpool1 False: a stem without pooling")


_LIGHTLY_TRAIN = KeyFormat(
    "lightly_train",
    "lightly-train's .ckpt (of two copies the teacher)",
    TEXT,
    containers=_STATE,
    prefixes=tuple(f"{copy}{_WRAPPED}{part}" for copy in ("teacher_", "") for part in _PARTS),
    layouts=TRUNKS,
    # The teacher of a distillation, which is not the trained network, has no head.
    needs=(
        r"(teacher_)?embedding_model\.wrapped_model\..*",
        r"embedding_model\.wrapped_model\..*|teacher_\w*head\..*",
    ),
    drops={
        "classifier": rf"(\w+_)?embedding_model\.wrapped_model\._model\.{_CLASSIFIER}",
        "student copy": r"student_embedding_model\..*",
        "outside the trunk": r"(?!(teacher_)?embedding_model\.wrapped_model\.).*",
    },
    facts=_facts_of_teacher,
)

LIGHTNING = (
    _SPT,
    variant(
        _SPT,
        "stable_pretraining_student",
        title="stable-pretraining (student)",
        prefixes=("backbone.student.", "encoder.student.vit.", "encoder.student."),
        drops={"teacher copy": r"(backbone|encoder)\.teacher\..*", **_SPT_DROPS},
        facts=_one_of_two("student", "stable_pretraining"),
        forced=True,
    ),
    _LIGHTLY_TRAIN,
    variant(
        _LIGHTLY_TRAIN,
        "lightly_train_student",
        title="lightly-train's .ckpt of a distillation, which has the student only",
        prefixes=tuple(f"student_{_WRAPPED}{part}" for part in _PARTS),
        needs=(r"student_embedding_model\.wrapped_model\..*",),
        drops={
            "classifier": _LIGHTLY_TRAIN.drops["classifier"],
            "teacher copy": r"teacher_embedding_model\..*",
            "outside the trunk": r"(?!student_embedding_model\.wrapped_model\.).*",
        },
        facts=_facts_of_student,
    ),
    KeyFormat(
        "bolts",
        "lightning-bolts' SimCLR, BYOL, SimSiam, SwAV",
        TEXT,
        containers=_STATE,
        prefixes=("online_network.encoder.", "encoder.", "model."),
        needs=(
            r"projection\.model\..*|online_network\.encoder\..*|model\.prototypes\d?\..*"
            r"|model\.prototypes\.prototypes\d\..*",
        ),
        drops={
            "projector": r"projection\..*|online_network\.projector\..*|model\.projection_head\..*",
            "momentum copy": r"target_network\..*",
            "predictor": r"(predictor|prediction_head)\..*",
            "prototypes": r"model\.prototypes\..*|queue",
            "classifier": r"(encoder|online_network\.encoder|model)\.fc\..*"
            r"|non_linear_evaluator\..*",
        },
        facts=_facts_of_bolts,
        check=_check_bolts,
    ),
)
