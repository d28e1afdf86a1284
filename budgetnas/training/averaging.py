"""The exponential moving average of a network's weights, updated with every step."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from budgetnas.training.network import ResNet


class Average:
    """A network whose weights are the moving average of a trained network's weights over its steps.

    Averaging weights is due to Polyak and Juditsky (1992). The growing decay is that of TensorFlow's
    ``ExponentialMovingAverage(decay, num_updates)``: after step t the average keeps the share
    min(decay, (1 + t) / (10 + t)) of itself, so the first steps soon lose their weight. Averaged weights need their own
    statistics for batch normalisation (Izmailov et al. 2018); here these are averaged too, without another pass over
    the images.

    Args:
        network: The network in training, on its device.
        decay: Share of itself that the average finally keeps at each step, in (0, 1).
    """

    def __init__(self, network: ResNet, decay: float) -> None:
        self.network = copy.deepcopy(network).eval()
        self._trained = network
        self._decay = decay
        self._steps = torch.zeros((), device=next(network.parameters()).device)

    @property
    def memory(self) -> dict[str, Tensor]:
        """The tensors that steps change, by name."""
        state = self.network.state_dict()
        return {"steps": self._steps} | {f"network.{name}": tensor for name, tensor in state.items()}

    @torch.no_grad()
    def update(self, skipped: Tensor | None = None) -> None:
        """Include the weights after a step, in place and without waiting for the device.

        Args:
            skipped: (), float32: 1 if the step was skipped, so nothing changes here, else 0. None if it was made.
        """
        made: Tensor | int = 1 if skipped is None else (1 - skipped).long()
        self._steps += made
        share = (1 - ((1 + self._steps) / (10 + self._steps)).clamp(max=self._decay)) * made
        (averages, counts), (values, counted) = _state(self.network), _state(self._trained)
        distances = torch._foreach_sub(values, averages)
        torch._foreach_mul_(distances, share)
        torch._foreach_add_(averages, distances)
        progress = torch._foreach_sub(counted, counts)
        torch._foreach_mul_(progress, made)
        torch._foreach_add_(counts, progress)


def _state(network: ResNet) -> tuple[list[Tensor], list[Tensor]]:
    """Return the floating-point weights and statistics, and the integer counters."""
    tensors = [*network.parameters(), *network.buffers()]
    counters = [tensor for tensor in tensors if not tensor.is_floating_point()]
    return [tensor for tensor in tensors if tensor.is_floating_point()], counters
