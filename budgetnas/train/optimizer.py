"""The recipe's optimiser and its learning rate, epoch by epoch."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from budgetnas.recipe import Recipe


def learning_rate(recipe: Recipe, epoch: int) -> float:
    """Return the rate in `epoch` (from 1): a cosine from the recipe's rate to 0 in ``t_max`` epochs.

    Loshchilov and Hutter 2017, equation 5 without restarts; like PyTorch's ``CosineAnnealingLR``, stepped once an
    epoch, it rises again beyond ``t_max``.
    """
    return recipe.learning_rate * (1 + math.cos(math.pi * (epoch - 1) / recipe.t_max)) / 2


def make_optimizer(network: nn.Module, recipe: Recipe, device: torch.device) -> torch.optim.Optimizer:
    """Return the recipe's optimiser over all parameters, one fused operation for all of them.

    On a GPU the rate is a tensor there, so that a captured step reads the current one.
    """
    on_gpu = device.type == "cuda"
    rate = torch.tensor(recipe.learning_rate, device=device) if on_gpu else recipe.learning_rate
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            network.parameters(),
            lr=rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            nesterov=recipe.nesterov,
            fused=True,
        )
    return torch.optim.Adam(
        network.parameters(), lr=rate, weight_decay=recipe.weight_decay, fused=True, capturable=on_gpu
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Have the next steps made with this rate."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
