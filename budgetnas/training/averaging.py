"""The exponential moving average of a network's weights, updated with every step."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from budgetnas.training.network import ResNet


class Average:
    """A network whose weights are the moving average of another one's over the steps of its training.

    Polyak and Juditsky (1992) average the schedule of the weights; the exponential kind with its growing memory is that
    of TensorFlow's ``ExponentialMovingAverage(decay, num_updates)``: after step t the average keeps the share
    min(decay, (1 + t) / (10 + t)) of itself, so that the first steps are soon forgotten. Averaged weights need
    statistics of their own for batch normalisation (Izmailov et al. 2018); here they are averaged likewise, which
    takes no pass over the images.

    Args:
        network: What is trained, on its device.
        decay: Share that the average keeps at each step in the long run, in (0, 1).
    """

    def __init__(self, network: ResNet, decay: float) -> None:
        self.network = copy.deepcopy(network).eval()
        self._trained = network
        self._decay = decay
        self._steps = torch.zeros((), device=next(network.parameters()).device)

    @property
    def memory(self) -> dict[str, Tensor]:
        """All that steps change, by name: the tensors themselves."""
        return {"steps": self._steps} | {f"network.{name}": one for name, one in self.network.state_dict().items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after a step; the device is asked for nothing, and all memory stays where it is."""
        self._steps += 1
        taken = 1 - ((1 + self._steps) / (10 + self._steps)).clamp(max=self._decay)
        (averages, counts), (values, counted) = _state(self.network), _state(self._trained)
        distances = torch._foreach_sub(values, averages)
        torch._foreach_mul_(distances, taken)
        torch._foreach_add_(averages, distances)
        torch._foreach_copy_(counts, counted)


def _state(network: ResNet) -> tuple[list[Tensor], list[Tensor]]:
    """Return weights and statistics, and apart from them what is counted in whole numbers."""
    tensors = [*network.parameters(), *network.buffers()]
    whole = [one for one in tensors if not one.is_floating_point()]
    return [one for one in tensors if one.is_floating_point()], whole
