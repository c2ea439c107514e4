"""Methods by name, and what each requires of its views and its backbone."""

from __future__ import annotations

from dataclasses import dataclass

# The two-view losses to which MSCN adds masking (METHOD.BASE of mscn).
BASES = ("simclr", "moco_v1", "moco_v2", "moco_v3", "simsiam", "byol", "vicreg", "barlow")
MSCN = "mscn"


@dataclass(frozen=True)
class Needs:
    """Describes the requirements of a method.

    a, b: number of views of branches A and B; None means one or more.
    focal: whether it uses focal views.
    vit: whether its backbone must be a ViT whose patches can be left out.
    labels: whether it needs class folders.
    pairs: whether it compares views, and so may collapse.
    """

    a: int | None = 1
    b: int | None = 1
    focal: bool = False
    vit: bool = False
    labels: bool = False
    pairs: bool = True


METHODS: dict[str, Needs] = {
    **{base: Needs() for base in BASES},
    MSCN: Needs(a=None, b=None),
    "supervised": Needs(b=0, labels=True, pairs=False),
    "msn": Needs(a=None, focal=True, vit=True),
    "mae": Needs(b=0, vit=True, pairs=False),
}
# Methods with a momentum copy, with a queue of keys
MOMENTUM = ("moco_v1", "moco_v2", "moco_v3", "byol", "msn")
QUEUED = ("moco_v1", "moco_v2")
# Methods whose loss depends only on the embeddings of one network: it can be computed in parts
IN_PARTS = ("simclr", "vicreg", "barlow")
