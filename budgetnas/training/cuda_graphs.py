"""Calls that are captured once as a CUDA graph and replayed.

A step of a small network is hundreds of kernels, each shorter than its launch from Python. A CUDA graph launches all of
them at once (https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs). A captured call must read and write
memory at fixed addresses, and must not copy a value to the host.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch

WARM_UP_CALLS: Final = 3
"""Plain calls of each size before its capture: libraries choose kernels and allocate workspaces in them."""


class CaptureError(RuntimeError):
    """A call could not be captured on this device."""


Call = Callable[[int], None]
"""Processes the next images; the argument is their number."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where calls are captured: a stream, and a memory pool shared by graphs that never run at the same time.

    Attributes:
        stream: Stream of a GPU.
        pool: Handle of the memory pool.
    """

    stream: torch.cuda.Stream
    pool: Any

    @classmethod
    def on(cls, device: torch.device) -> Place:
        """Return a new place on a GPU."""
        stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        return cls(stream, torch.cuda.graph_pool_handle())


class CapturedCalls:
    """A call on a GPU, captured for each size after a few plain calls.

    The plain calls are real work: they are the first steps of a training. A call must not allocate memory that a later
    call reads.

    Args:
        place: Where to capture.
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
            if self._plain_calls[size] < WARM_UP_CALLS:
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
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(
                graph, pool=self._place.pool, stream=self._place.stream, capture_error_mode="thread_local"
            ):
                call(size)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise CaptureError(str(error)) from error
        return graph


def can_capture(device: torch.device) -> bool:
    """Return whether a small call can be captured on this GPU."""
    number = torch.zeros((), device=device)

    def add(size: int) -> None:
        number.add_(size)

    calls = CapturedCalls(Place.on(device))
    try:
        for _ in range(WARM_UP_CALLS + 2):
            calls(add, 1)
    except RuntimeError:
        return False
    return int(number) == WARM_UP_CALLS + 2
