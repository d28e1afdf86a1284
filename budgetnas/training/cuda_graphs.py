"""Calls that are captured once as a CUDA graph and replayed.

A step of a small network is hundreds of kernels, each shorter than its launch from Python. A CUDA graph launches all of
them at once (https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs). A captured call must read and write
memory at fixed addresses, and must not copy a value to the host.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch

WARM_UP_CALLS: Final = 3
"""Plain calls of the first size before its capture: libraries choose kernels and allocate workspaces in them."""
LATER_WARM_UP_CALLS: Final = 1
"""Plain calls of each later size: the libraries are loaded, but choose kernels for each size."""


class CaptureError(RuntimeError):
    """A call could not be captured, because of this device or for lack of memory; the process must end."""


Call = Callable[[int], None]
"""Processes the next images; the argument is their number."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where calls are captured: a stream, and a memory pool shared by graphs that never run at the same time."""

    stream: torch.cuda.Stream
    pool: Any  # handle of the memory pool

    @classmethod
    def on(cls, device: torch.device) -> Place:
        """Return a place on a GPU, with a new pool and the stream of all captures on this GPU."""
        return cls(_stream(device), torch.cuda.graph_pool_handle())


@functools.cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """Return this process's stream for captures: cuBLAS keeps a workspace for every stream it was called on."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


class CapturedCalls:
    """A call on a GPU, captured for each size after a few plain calls.

    The first size is captured after three calls, each later size after a single call: the last, smaller batch of an
    epoch is captured in the second epoch. The plain calls are real work: they are the first steps of a training. A call
    must not allocate memory that a later call reads.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._plain_calls: Counter[int] = Counter()
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}

    def __call__(self, call: Call, size: int) -> None:
        """Make `call`, always the same function, for the next `size` images.

        It is passed each time so that no reference cycle keeps a trainer's memory.

        Raises:
            CaptureError: If it cannot be captured.
        """
        if size not in self._graphs:
            if self._plain_calls[size] < (LATER_WARM_UP_CALLS if self._graphs else WARM_UP_CALLS):
                self._plain_calls[size] += 1
                return self._warm_up(call, size)
            self._graphs[size] = self._capture(call, size)
        self._graphs[size].replay()

    def _warm_up(self, call: Call, size: int) -> None:
        """Make a plain call on the capture stream, ordered with everything before and after it."""
        stream = self._place.stream
        current = torch.cuda.current_stream(stream.device)
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            call(size)
        current.wait_stream(stream)

    def _capture(self, call: Call, size: int) -> torch.cuda.CUDAGraph:
        graph, stream = torch.cuda.CUDAGraph(), self._place.stream
        current = torch.cuda.current_stream(stream.device)
        try:
            with torch.cuda.graph(graph, pool=self._place.pool, stream=stream, capture_error_mode="thread_local"):
                call(size)
        except RuntimeError as error:
            raise CaptureError(str(error)) from error
        finally:
            torch.cuda.set_stream(current)  # PyTorch leaves the capture's stream in place if the capture fails
        return graph
