"""Methods by name."""

from __future__ import annotations

from torch import nn

from pretrain.methods.mscn import MSCN
from pretrain.methods.simclr import SimCLR

METHODS: dict[str, type[nn.Module]] = {"mscn": MSCN, "simclr": SimCLR}
