"""The fingerprint of the training images in checkpoints that fvcore's Checkpointer writes.

Detectron2 writes and reads the checkpoints of its own trainer. It stores what `state_dict` of each
of its parts returns, and gives it back to `load_state_dict` before it continues.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fvcore.common.checkpoint import Checkpointer

from pretrain.data.fingerprint import Fingerprint, check_training_data


class CheckpointedData:
    """Is the part `data` of the checkpoints; on a resume it compares it with this run's data."""

    def __init__(self, checkpointer: Checkpointer, data: Fingerprint) -> None:
        """
        Args:
            data: fingerprint of the training images, the same on all processes.
        """
        self._checkpointer, self._data, self._compared = checkpointer, data, False
        checkpointer.add_checkpointable("data", self)

    def state_dict(self) -> dict[str, Any]:
        """Returns the fingerprint as plain values."""
        return self._data.to_dict()

    def load_state_dict(self, kept: Any) -> None:
        """Raises InputError if the checkpoint is of different data."""
        self._compared = True
        check_training_data(Path(self._checkpointer.get_checkpoint_file()), kept, self._data)

    def warn_if_unknown(self) -> None:
        """Warns if a checkpoint was loaded that does not say what data it is of."""
        if not self._compared:
            self.load_state_dict(None)
