"""The state of a training at the end of an epoch, from which a stopped training resumes."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Self

import torch
from torch import Tensor

from budgetnas.errors import StateError

_FORMAT: Final = 1


@dataclass(frozen=True, slots=True, eq=False)
class TrainingState:
    """A training at the end of an epoch."""

    epoch: int  # epochs done
    training: str  # digests of architecture and recipe, and the seed
    # Everything that an epoch changes, by name, as copies on the CPU: weights and statistics, optimiser state, moving
    # average, loss scale of fp16, and the generator of order and augmentation.
    tensors: Mapping[str, Tensor]

    @classmethod
    def copied(cls, epoch: int, training: str, memory: Mapping[str, Tensor]) -> Self:
        """Return a copy of `memory` as a state."""
        return cls(epoch, training, {name: tensor.detach().to("cpu", copy=True) for name, tensor in memory.items()})

    def adapted_to(self, memory: Mapping[str, Tensor], *, optional: Mapping[str, Tensor]) -> Self:
        """Return this state with the tensors of `optional` that `memory` has, and without the others of `optional`.

        A tensor that this state lacks is taken from `optional`. A training that resumes in another precision may need a
        loss scale that its state lacks, or have no use for one that it has.
        """
        kept = {name: tensor for name, tensor in self.tensors.items() if name in memory or name not in optional}
        needed = {name: tensor for name, tensor in optional.items() if name in memory}
        return replace(self, tensors=needed | kept)

    def check_fit(self, memory: Mapping[str, Tensor]) -> None:
        """Check that `memory` has the same names, shapes and types.

        Raises:
            StateError: If they differ; names the first difference.
        """
        for name in sorted(memory.keys() ^ self.tensors.keys()):
            raise StateError(f"it lacks {name}" if name in memory else f"it has {name}, which is unknown here")
        for name, tensor in memory.items():
            stored, needed = _kind(self.tensors[name]), _kind(tensor)
            if stored != needed:
                raise StateError(f"its {name} is {stored}, here it is {needed}")

    def to_bytes(self) -> bytes:
        """Return the content of a file for `from_bytes`: tensors and plain types only."""
        written = io.BytesIO()
        content = {"format": _FORMAT, "epoch": self.epoch, "training": self.training, "tensors": dict(self.tensors)}
        torch.save(content, written)
        return written.getvalue()

    @classmethod
    def from_bytes(cls, stored: bytes) -> Self:
        """Return the state that `to_bytes` wrote, without running code from `stored`.

        A change within a tensor is not detected: store a checksum with the bytes.

        Raises:
            StateError: If `stored` is not a complete state.
        """
        try:
            content = torch.load(io.BytesIO(stored), map_location="cpu", weights_only=True)
        except Exception as error:  # the type depends on where reading fails
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
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items()
    )


def _kind(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
