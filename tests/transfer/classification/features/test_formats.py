"""Which number formats `auto` means for features, and the config that records them."""

from __future__ import annotations

import pytest
import torch

from pretrain.common.errors import InputError
from transfer.classification.defaults import get_defaults
from transfer.classification.features.formats import choose_formats, with_formats

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_what_auto_stands_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_formats("auto", "auto", CPU) == ("fp32", "fp32")
    assert choose_formats("bf16", "fp32", CPU) == ("bf16", "fp32")
    assert choose_formats("fp16", "auto", CPU) == ("fp16", "fp16")
    for name, dtype in {"bf16": torch.bfloat16, "fp16": torch.float16}.items():
        # What the GPU's generation decides; it is asked in `amp_dtype` alone.
        monkeypatch.setattr(
            "transfer.classification.features.formats.amp_dtype", lambda device: dtype
        )
        assert choose_formats("auto", "auto", CUDA) == (name, "fp16")
        assert choose_formats("fp32", "auto", CUDA) == ("fp32", "fp32")
    known = "known: auto, bf16, fp16, fp32"
    with pytest.raises(InputError, match=f"'fp8' in FEATURES.PRECISION; {known}"):
        choose_formats("fp8", "auto", CPU)


def test_a_config_with_the_formats_of_a_device() -> None:
    cfg = get_defaults()
    cfg.FEATURES.STORAGE = "fp16"
    found = with_formats(cfg, CPU)
    assert dict(found.FEATURES) == {"PRECISION": "fp32", "STORAGE": "fp16"}
    assert cfg.FEATURES.PRECISION == "auto" and found.is_frozen()
