"""torch.compile of a network, which goes on uncompiled, and says so in one line, if that fails."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn

logger = logging.getLogger(__name__)


def compile_network(network: nn.Module) -> None:
    """Lets the network's calls be compiled, the first time that a kind of input comes.

    Names in the state stay as they are; copies made before are not compiled. Sums may be taken in
    another order, so that numbers differ by rounding.
    """
    plain = network._call_impl
    fast = torch.compile(plain)

    def call(*args: Any, **options: Any) -> Any:
        try:
            return fast(*args, **options)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = " ".join(str(error).strip().splitlines()[:2])  # what, and why
            logger.warning("SOLVER.COMPILE has no effect, torch.compile failed: %s", reason)
            network._compiled_call_impl = None
            return plain(*args, **options)

    network._compiled_call_impl = call
