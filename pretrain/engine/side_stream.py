"""The views of the next step beside the backward pass of this one: a CUDA stream of their own.

A stream keeps the order of what is launched on it, and two streams none. So whoever uses what
another stream makes must let its own stream wait for the other, and must tell the allocator, which
otherwise gives the memory away while the other stream still reads it. The host waits for neither.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class SideStream:
    """Launches work beside the current stream of a GPU, and hands over what it makes.

    The work must not read what the current stream writes, such as weights: it waits for nothing.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)

    @contextmanager
    def launched(self) -> Iterator[None]:
        """Kernels and copies from here on are launched on this stream."""
        with torch.cuda.stream(self._stream):
            yield

    def hand_over(self, tensors: Iterable[Tensor]) -> None:
        """Lets the current stream use the tensors: it waits for all that was launched on this one
        before, and their memory is not given away until it has used them."""
        current = torch.cuda.current_stream(self._device)
        current.wait_stream(self._stream)
        for tensor in tensors:
            tensor.record_stream(current)
