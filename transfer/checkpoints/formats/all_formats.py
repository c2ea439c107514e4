"""All key formats by name, in the order in which they are tried on a file."""

from __future__ import annotations

from transfer.checkpoints.formats.convnext import CONVNEXT
from transfer.checkpoints.formats.facebookresearch import META
from transfer.checkpoints.formats.generic import GENERIC
from transfer.checkpoints.formats.huggingface_convnet import HUGGINGFACE
from transfer.checkpoints.formats.huggingface_vit import HUGGING_FACE_VITS
from transfer.checkpoints.formats.key_format import KeyFormat
from transfer.checkpoints.formats.lightning import LIGHTNING
from transfer.checkpoints.formats.other_frameworks import FOREIGN
from transfer.checkpoints.formats.ours import FLAT, OURS
from transfer.checkpoints.formats.simclr_ports import PORTS
from transfer.checkpoints.formats.timm_convnets import TIMM_CONVNETS
from transfer.checkpoints.formats.toolboxes import TOOLBOXES
from transfer.checkpoints.formats.vits import VITS

FORMATS: dict[str, KeyFormat] = {
    entry.name: entry
    for entry in (
        *OURS,
        *FOREIGN,
        *VITS,
        *HUGGING_FACE_VITS,
        *META,
        *LIGHTNING,
        *PORTS,
        *TOOLBOXES,
        *HUGGINGFACE,
        *CONVNEXT,
        *TIMM_CONVNETS,
        *FLAT,
        GENERIC,
    )
}
