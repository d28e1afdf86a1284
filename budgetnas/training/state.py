"""What a stopped training goes on from: all that its epochs have changed, as it was when one ended."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

import torch
from torch import Tensor

from budgetnas.errors import StateError

_FORMAT: Final = 1


@dataclass(frozen=True, slots=True, eq=False)
class TrainingState:
    """A training at the end of one of its epochs.

    Attributes:
        epoch: Epochs done.
        training: Which training it is of: what was built, how it was trained, and the seed.
        tensors: All that an epoch changes, by name: weights and statistics, what the optimiser keeps, the moving
            average, and the generator of order and augmentation. They are on the CPU and nobody else's.
    """

    epoch: int
    training: str
    tensors: Mapping[str, Tensor]

    @classmethod
    def copied(cls, epoch: int, training: str, memory: Mapping[str, Tensor]) -> Self:
        """Return the state that `memory` holds now; it may change afterwards."""
        return cls(epoch, training, {name: one.detach().to("cpu", copy=True) for name, one in memory.items()})

    def check_fit(self, memory: Mapping[str, Tensor]) -> None:
        """Check that every tensor has its place in `memory` and every place its tensor.

        Raises:
            StateError: If not; says what the first difference is.
        """
        for name in sorted(memory.keys() ^ self.tensors.keys()):
            raise StateError(f"it lacks {name}" if name in memory else f"it has {name}, which this training has not")
        for name, place in memory.items():
            kept, needed = _kind(self.tensors[name]), _kind(place)
            if kept != needed:
                raise StateError(f"its {name} is {kept}, here it is {needed}")

    def to_bytes(self) -> bytes:
        """Return the state as a file's content, for `from_bytes`: tensors and plain types alone."""
        written = io.BytesIO()
        content = {"format": _FORMAT, "epoch": self.epoch, "training": self.training, "tensors": dict(self.tensors)}
        torch.save(content, written)
        return written.getvalue()

    @classmethod
    def from_bytes(cls, stored: bytes) -> Self:
        """Return the state that `to_bytes` wrote. No code that `stored` may hold is run.

        What was changed within a tensor is not found out; who keeps the bytes keeps a checksum.

        Raises:
            StateError: If it is no such state, or not a whole one.
        """
        try:
            content = torch.load(io.BytesIO(stored), map_location="cpu", weights_only=True)
        except Exception as error:  # what is raised for other bytes depends on where reading them first fails
            raise StateError(f"cannot be read as a training's state ({_first_line(error)})") from error
        if not isinstance(content, dict) or content.keys() != {"format", "epoch", "training", "tensors"}:
            raise StateError("is a file of PyTorch's, but not a training's state")
        if content["format"] != _FORMAT:
            raise StateError(f"is a training's state in format {content['format']!r}; this version reads {_FORMAT}")
        epoch, training, tensors = content["epoch"], content["training"], content["tensors"]
        if not (type(epoch) is int and isinstance(training, str) and _are_named_tensors(tensors)):
            raise StateError("is a training's state with parts of the wrong kind")
        return cls(epoch, training, tensors)


def _are_named_tensors(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(name, str) and isinstance(one, Tensor) for name, one in value.items()
    )


def _kind(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
