"""torch.compile of a network. If it fails, the network runs uncompiled and one log line says so."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn

logger = logging.getLogger(__name__)


def compile_network(network: nn.Module) -> None:
    """Compiles the network's calls when each kind of input comes for the first time.

    Names in the state stay the same; copies that were made before are not compiled. Sums may be
    computed in a different order, so numbers differ by rounding.
    """
    plain = network._call_impl
    fast = torch.compile(plain)

    def call(*args: Any, **options: Any) -> Any:
        try:
            return fast(*args, **options)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = " ".join(str(error).strip().splitlines()[:2])  # the error and its reason
            logger.warning("SOLVER.COMPILE has no effect, torch.compile failed: %s", reason)
            network._compiled_call_impl = None
            return plain(*args, **options)

    network._compiled_call_impl = call
