"""All key formats by name, in the order in which a file is held against them."""

from __future__ import annotations

from transfer.checkpoints.formats.entry import KeyFormat
from transfer.checkpoints.formats.foreign import FOREIGN
from transfer.checkpoints.formats.generic import GENERIC
from transfer.checkpoints.formats.meta import META
from transfer.checkpoints.formats.ours import FLAT, OURS
from transfer.checkpoints.formats.toolboxes import TOOLBOXES

FORMATS: dict[str, KeyFormat] = {
    entry.name: entry for entry in (*OURS, *FOREIGN, *META, *TOOLBOXES, *FLAT, GENERIC)
}
