"""Trained weights as a safetensors file, and back: never as a pickle."""

from __future__ import annotations

import safetensors.torch

from budgetnas.architecture import Architecture
from budgetnas.errors import BudgetnasError
from budgetnas.training.network import ResNet, build


def to_safetensors(network: ResNet) -> bytes:
    """Return all parameters and batch-norm statistics of `network`, by the names of its ``state_dict``."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    return safetensors.torch.save(state)


def from_safetensors(architecture: Architecture, tensors: bytes) -> ResNet:
    """Return the network of `architecture` with these weights, on the CPU, in evaluation mode.

    Raises:
        BudgetnasError: If the weights do not fit the architecture.
    """
    network = build(architecture, seed=0)
    try:
        network.load_state_dict(safetensors.torch.load(tensors), strict=True)
    except (RuntimeError, ValueError, safetensors.SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise BudgetnasError(f"the weights do not fit {architecture.describe()}: {reason}") from None
    return network.eval()
