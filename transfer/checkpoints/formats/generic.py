"""The last format, `generic`: the complete trunk of a file that no other format explains.

The trunk is what is below the longest prefix under which there is exactly one complete known
backbone. Every other tensor is dropped as "outside the trunk". A tensor that may be a part of the
network itself (in the trunk's own modules, in a second stem, registers) is not dropped: the file is
refused.

Equal copies of the trunk count as one. If copies differ, the trained one is read (query, online)
and its average is not (key, target, momentum, EMA). If there are a teacher and a student, the
teacher is read, as DINO's authors do. If this rule does not decide, `--prefix` is needed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from os.path import commonprefix
from typing import Any

import torch
from torch import Tensor

from pretrain.common.errors import InputError
from pretrain.data.preprocess import Preprocess
from transfer.checkpoints.formats.key_format import (
    TEXT,
    Flat,
    Found,
    KeyFormat,
    variant,
    without_ddp,
)
from transfer.checkpoints.formats.mm_config import stored_config
from transfer.checkpoints.formats.openmmlab import facts_of_mm
from transfer.checkpoints.formats.refused_networks import made_from
from transfer.checkpoints.formats.toolboxes import facts_of_lightning
from transfer.checkpoints.formats.unwrap import DEPTH
from transfer.checkpoints.names.layouts import TRUNKS, Layout, layout_of
from transfer.checkpoints.networks.architectures import (
    expected_shapes,
    nearest_backbone,
    same_trunk,
    shorten,
)
from transfer.checkpoints.provenance import Facts, no_facts

GENERIC = KeyFormat(
    "generic",
    "any other file that has one complete known backbone below one prefix",
    TEXT,
    kinds=("torch", "safetensors", "pickle"),
)
LAYOUTS = (*TRUNKS, "numeric", "mm_vit", "detectron2")
OUTSIDE = "outside the trunk"
DETECTRON2 = (
    "its names are Detectron2's, whose own models of MSRA's weights stride in their first 1x1 "
    "convolutions and take BGR on 0 to 255: the file does not say it, and it is not assumed"
)
NEARLY = 0.9  # the share of a backbone's tensors from which on it counts as a damaged one
# Names next to a trunk that begin with one of these may belong to it: stems, norms, tokens.
_STRUCTURE = re.compile(
    r"(stem|conv|bn|gn|norm|layers?|stages?|blocks?|res|maxpool|avgpool|pool|attnpool|act|relu|"
    r"downsample|aa|se|ln_pre|norm_pre|fc_norm|dist_token|reg_token|register_tokens|"
    r"storage_tokens|class_embedding|positional_embedding|rope\w*)\d*"
)
_DETECTOR = re.compile(
    r"rpn|rpn_head|roi_heads?|bbox_head|mask_head|proposal_generator|decode_head|sem_seg_head|"
    r"segmentation_head|aux_classifier|auxiliary_head|"
    # heads of RetinaNet, FCOS and SSD (torchvision, Detectron2), DETR and its descendants
    r"regression_head|cls_logits|cls_subnet|bbox_subnet|bbox_(pred|embed|predictor)|query_embed|"
    r"query_position_embeddings|class_labels_classifier|mask_embed|panoptic_head|keypoint_head"
)
# Classifiers in the module of a ConvNeXt's last norm (timm, torchvision), and classifiers and
# projectors in the stem of Detectron2's names: converters put there all that is not in a stage.
_CLASSIFIER = re.compile(
    r"(head\.fc|classifier\.[1-9]\d*|stem\.(fc|head|mlp|projector|projection_head|prototypes))\..*"
)
_AVERAGED = {
    "ema",
    "momentum",
    "target",
    "key",
    "k",
    "t",
    "averaged",
    "avg",
    "swa",
    "shadow",
    "polyak",
}


@dataclass(frozen=True)
class Trunk:
    """Describes a backbone in a file.

    Attributes:
        tensors: the converted tensors, by canonical name.
        shared: number of the prefix's first parts that all backbones of the file share: in
            `ema.online_model.` and `ema.ema_model.`, `ema` does not make one of them an average.
    """

    prefix: str
    layout: Layout
    backbone: str
    tensors: Mapping[str, Tensor]
    shared: int = 0

    @cached_property
    def wanted(self) -> dict[str, tuple[int, ...]]:
        """Returns the shapes in which the layout stores its tensors, by canonical name."""
        shapes = self.layout.split(expected_shapes(self.backbone, counters=False))
        fills = self.layout.fills
        return {
            name: shape
            for name, shape in shapes.items()
            if name in self.tensors or not {name, name.rpartition(".")[2]} & fills.keys()
        }

    @property
    def explained(self) -> int:
        """Returns the number of tensors in the file that have a name of the backbone."""
        return len(self.wanted.keys() & self.tensors.keys())

    @cached_property
    def part(self) -> float:
        """Returns the share of the backbone that is in the file with the right names and shapes, 0
        to 1.
        """
        return len(self._fitting()) / len(self.wanted)

    def _shape(self, name: str) -> tuple[int, ...] | None:
        return tuple(self.tensors[name].shape) if name in self.tensors else None

    def equals(self, other: Trunk) -> bool:
        """Returns whether both have the same values. Only tensors of the backbone's shapes are
        looked at: a file may declare another one as large as it likes."""
        mine = self._fitting()
        return mine == other._fitting() and all(
            _same(self.tensors[name], other.tensors[name]) for name in mine
        )

    def _fitting(self) -> set[str]:
        """Returns the backbone's names whose tensor is there and has the right shape."""
        return {name for name, shape in self.wanted.items() if self._shape(name) == shape}

    @property
    def rank(self) -> int:
        """Returns the rank among copies: the one with the lowest rank is read."""
        own = ".".join(self.prefix.split(".")[self.shared :])
        spaced = re.sub(r"([a-z])([A-Z])", r"\1_\2", own)
        words = set(re.split(r"[._]", spaced.lower()))
        if "teacher" in words:
            return 0
        return 3 if words & _AVERAGED else 2 if "student" in words else 1


def flatten(content: Mapping[str, Any], before: str = "", depth: int = 0) -> dict[str, Tensor]:
    """Returns every tensor of a file under the path of its keys, joined by points."""
    tensors: dict[str, Tensor] = {}
    for key, value in content.items():
        if not isinstance(key, str):
            continue
        if isinstance(value, Tensor):
            tensors[before + key] = value
        elif isinstance(value, Mapping) and depth < DEPTH:
            tensors |= flatten(value, f"{before}{key}.", depth + 1)
    return tensors


def trunks(tensors: Mapping[str, Tensor]) -> list[Trunk]:
    """Returns the (nearly) complete backbones: trained before averaged, longest prefix first."""
    best: dict[str, Trunk] = {}
    for place in _places(tensors):
        trunk = _trunk(tensors, *place)
        # Several layouts may know a network: the one that explains most of its names is taken.
        rival = best.get(trunk.prefix) if trunk else None
        if trunk and (rival is None or trunk.explained > rival.explained):
            best[trunk.prefix] = trunk
    shared = len(commonprefix([prefix.split(".") for prefix in best]))
    found = [replace(trunk, shared=shared) for trunk in best.values()]
    return sorted(found, key=lambda one: (one.rank, -len(one.prefix)))


def find_generic(
    content: Flat, plain: Mapping[str, Any], prefix: str | None, other: bool = False
) -> Found | None:
    """Returns the file as format `generic`; None if it has nothing like a backbone.

    Args:
        content: as read; plain: the content without the wrappers' parts of names (`unwrap`).
        prefix: the trunk's prefix, from the user. other: the names are those of a known other
            network: a damaged backbone is not taken.

    Raises:
        InputError: several networks between which no rule decides, or nothing below the prefix.
    """
    tensors = flatten(plain)
    found = trunks(tensors)
    if prefix is not None:
        return as_generic(_forced(found, tensors, prefix), content, tensors, forced=True)
    if other:
        found = [one for one in found if one.part == 1]
    return as_generic(_chosen(found), content, tensors) if found else None


def as_generic(
    trunk: Trunk,
    content: Flat,
    tensors: dict[str, Tensor],
    facts: Facts | None = None,
    forced: bool = False,
) -> Found:
    """Returns a trunk as a separate format, whose rule drops all other tensors.

    Args:
        facts: the facts of the format that is nearest to the file.
        forced: the user has said that this is the trunk.

    Raises:
        InputError: other tensors may be a part of the network.
    """
    inside = {trunk.prefix + (trunk.layout.forth(name) or name) for name in _names(trunk)}
    rest = [name for name in tensors if name not in inside]
    tops = {name[len(trunk.prefix) :].partition(".")[0] for name in inside}
    kept = [n for n in rest if _within(n, trunk.prefix, tops)]
    if made := made_from(kept):
        raise InputError(made)
    outside = sorted(set(rest) - set(kept))
    if not forced and trunk.part == 1:
        _check_rest(trunk, outside, content)
    trunk_names = "|".join(map(re.escape, sorted(tops)))
    start = re.escape(without_ddp(trunk.prefix))
    # (?s): a name may have a line break, too
    pattern = rf"(?s:(?!{start}({trunk_names})(\.|$)).*|{start}{_CLASSIFIER.pattern})"
    known = facts or _facts(content)
    where = f"below `{trunk.prefix}`" if trunk.prefix else "at the top of the file"
    said = f"no known format explains the complete file; the {trunk.backbone} {where} is used"
    if outside:
        groups = ", ".join(f"`{name}` {count}" for name, count in _groups(outside, trunk).items())
        said += f"; {len(outside)} tensors outside the trunk were ignored ({groups})"
    silent = known.preprocess == Preprocess() and not known.warnings
    assumed = no_facts({}).warnings if silent else ()
    detectron2 = (DETECTRON2,) if trunk.layout.name == "detectron2" else ()
    known = known._replace(warnings=(said, *known.warnings, *assumed, *detectron2))
    entry = variant(GENERIC, "generic", drops={OUTSIDE: pattern}, facts=lambda _: known)
    return Found(entry, tensors, trunk.prefix, trunk.layout, tensors)


def widened(found: Found) -> Found | None:
    """Reads a file as `generic` whose known format does not explain all tensors.

    Returns:
        None if the trunk at the format's own place is damaged: no other copy replaces it.

    Raises:
        InputError: see `find_generic`.
    """
    tensors = flatten(found.content)
    own = path_of(found)
    everywhere = trunks(tensors)
    trunk = next((one for one in everywhere if one.prefix == own), None)
    if trunk is None and everywhere:
        return as_generic(_chosen(everywhere), found.content, tensors)
    if trunk is None or trunk.part < 1:
        return None
    return as_generic(trunk, found.content, tensors, found.format.facts(found.content))


def path_of(found: Found) -> str:
    """Returns the keys that lead to the trunk, and its prefix, as one text."""
    if found.format.name == GENERIC.name:
        return found.prefix
    return "".join(f"{key}." for key in found.format.containers[0]) + found.prefix


def copies_note(found: Found) -> tuple[str, ...]:
    """Returns a line about the copy of the trunk that was read and those that were not; or none."""
    own, copies = path_of(found), trunks(flatten(found.content))
    taken = next((one for one in copies if one.prefix == own), None)
    left = [one for one in copies if one is not taken]
    if taken is None or not left:
        return ()
    parts = [f"`{one.prefix}` ({'equal' if one.equals(taken) else 'different'})" for one in left]
    return (f"read: `{own or '(the top of the file)'}`; not read, as copies: {', '.join(parts)}",)


def _places(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, str, list[str]]]:
    """Returns layouts and prefixes with a trunk's typical names, and the names below each."""
    for layout in LAYOUTS:
        landmarks = [one for one in layout_of(layout).landmarks if one.count(".") > 1]
        prefixes = dict.fromkeys(  # the file's order is kept: it decides between equal copies
            name[: -len(mark)]
            for name in tensors
            for mark in landmarks
            if name.endswith(mark) and (name == mark or name[-len(mark) - 1] == ".")
        )
        for prefix in prefixes:
            yield layout, prefix, [name for name in tensors if name.startswith(prefix)]


def _trunk(
    tensors: Mapping[str, Tensor], layout: str, prefix: str, names: Collection[str]
) -> Trunk | None:
    """Returns the backbone that is nearest to the names below a prefix; None if none is near."""
    below = [name[len(prefix) :] for name in names]
    form = layout_of(layout, below)
    state = {
        canonical: form.convert(canonical, _dense(tensors[prefix + name]))
        for name in below
        if (canonical := form.back(name)) is not None
    }
    state |= form.adds
    trunk = Trunk(prefix, form, nearest_backbone(state, form.split)[0], state)
    return trunk if trunk.part >= NEARLY else None


def _dense(tensor: Tensor) -> Tensor:
    """Returns the tensor; for a sparse one a tensor that has only the shape."""
    dense = tensor.layout == torch.strided
    return tensor if dense else torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")


def _same(one: Tensor, other: Tensor) -> bool:
    return not (one.is_meta or other.is_meta) and torch.equal(one, other)


def _names(trunk: Trunk) -> Collection[str]:
    return trunk.layout.split(expected_shapes(trunk.backbone, counters=True))


def _top(name: str, prefix: str) -> str:
    return name[len(prefix) :].partition(".")[0]


def _within(name: str, prefix: str, tops: Collection[str]) -> bool:
    """Returns whether a tensor is in one of the trunk's own modules, and is not a classifier's."""
    inside = name.startswith(prefix) and _top(name, prefix) in tops
    return inside and not _CLASSIFIER.fullmatch(name[len(prefix) :])


def _chosen(found: list[Trunk]) -> Trunk:
    """Returns the trunk that the rule of this module selects."""
    first = found[0]
    rivals = [
        one
        for one in found[1:]
        if not (one.rank > first.rank and same_trunk(one.backbone, first.backbone))
        and not one.equals(first)
    ]
    if not rivals:
        return first
    places = ", ".join(f"`{one.prefix}` ({one.backbone})" for one in (first, *rivals))
    raise InputError(
        f"it holds {1 + len(rivals)} different networks, below {places}; name one by --prefix of "
        "tools/convert_weights.py"
    )


def _forced(found: list[Trunk], tensors: Mapping[str, Tensor], prefix: str) -> Trunk:
    """Returns the trunk below a prefix: a complete path, or the end of exactly one path."""
    wanted = prefix.strip(".") + "." if prefix.strip(".") else ""
    exact = [one for one in found if one.prefix == wanted]
    ending = [one for one in found if wanted and f".{one.prefix}".endswith(f".{wanted}")]
    chosen = exact or ending
    if len(chosen) == 1:
        return chosen[0]
    known = " or ".join(f"--prefix {one.prefix.rstrip('.') or repr('')}" for one in found)
    count = f"{len(chosen)} known backbones are" if chosen else "no known backbone is"
    begin = f"the file has none; its names begin {shorten(list(tensors))}"
    raise InputError(f"{count} below the prefix {prefix!r}; {f'give {known}' if known else begin}")


def _check_rest(trunk: Trunk, rest: list[str], content: Flat) -> None:
    """Raises InputError if other tensors may change what the trunk computes."""
    near = [n for n in rest if n.startswith(trunk.prefix)]
    parts = [n for n in near if not _CLASSIFIER.fullmatch(n[len(trunk.prefix) :])]
    structure = [n for n in parts if _STRUCTURE.fullmatch(_top(n, trunk.prefix))]
    place = f"--prefix {trunk.prefix.rstrip('.') or repr('')} of tools/convert_weights.py"
    if structure:
        raise InputError(
            f"the file has tensors next to the {trunk.backbone} below `{trunk.prefix}` that may"
            f" belong to it ({shorten(structure)}), which make it a different network; {place}"
            " leaves them out"
        )
    heads = [name for name in rest if any(map(_DETECTOR.fullmatch, name.split(".")))]
    if heads:
        raise InputError(
            f"it is a detector or a segmenter ({shorten(heads)}), whose backbone was fine-tuned; "
            f"{place} uses the {trunk.backbone} anyway"
        )


def _groups(names: list[str], trunk: Trunk) -> dict[str, int]:
    """Returns how many names outside the trunk have each outermost part."""
    counts: dict[str, int] = {}
    for name in names:
        parts, path = name.split("."), ""
        for part in parts:
            path += f"{part}."
            if not trunk.prefix.startswith(path):
                break
        group = path.rstrip(".") if path.rstrip(".") == name else path
        counts[group] = counts.get(group, 0) + 1
    return counts


def _facts(content: Flat) -> Facts:
    """Returns the facts in a file of unknown format: OpenMMLab's config, Lightning's epochs."""
    if stored_config(content):
        return facts_of_mm(content)
    if "pytorch-lightning_version" in content:
        return facts_of_lightning(content)
    return no_facts(content)
