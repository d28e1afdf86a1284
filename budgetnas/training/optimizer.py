"""The recipe's optimiser and its learning rate in each epoch."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from budgetnas.space.recipe import Recipe


def learning_rate(recipe: Recipe, epoch: int) -> float:
    """Return the rate in `epoch` (from 1): a cosine from the recipe's rate to 0 in ``t_max`` epochs, after a warm-up.

    Loshchilov and Hutter 2017, equation 5 without restarts. Like PyTorch's ``CosineAnnealingLR`` stepped once an epoch,
    the rate rises again beyond ``t_max``. In w epochs of warm-up the rate is 1/(w+1), ..., w/(w+1) of the recipe's rate
    (Goyal et al. 2017, once per epoch); the cosine takes the remaining ``t_max - w`` epochs.
    """
    warmup = recipe.warmup_epochs
    if epoch <= warmup:
        return recipe.learning_rate * epoch / (warmup + 1)
    return recipe.learning_rate * (1 + math.cos(math.pi * (epoch - 1 - warmup) / (recipe.t_max - warmup))) / 2


def learning_rates(recipe: Recipe, epoch: int, steps: int) -> list[float]:
    """Return the learning rates in `epoch` (from 1): one for each of its `steps`, or a single rate for all of them.

    With a rate per step, it rises linearly to the recipe's rate at the end of the warm-up. It then falls as a cosine to
    0 at the end of ``t_max``, like PyTorch's ``CosineAnnealingLR`` stepped after every batch.
    """
    if recipe.schedule == "epoch":
        return [learning_rate(recipe, epoch)]
    warmup, end, first = recipe.warmup_epochs * steps, recipe.t_max * steps, (epoch - 1) * steps
    return [recipe.learning_rate * _share(step, warmup, end) for step in range(first, first + steps)]


def _share(step: int, warmup: int, end: int) -> float:
    if step < warmup:
        return (step + 1) / warmup
    return (1 + math.cos(math.pi * (step - warmup) / (end - warmup))) / 2


def make_optimizer(network: nn.Module, recipe: Recipe, device: torch.device) -> torch.optim.Optimizer:
    """Return the recipe's optimiser over all parameters, fused.

    On a GPU the rate is a tensor, so a captured step reads the current value.
    """
    on_gpu = device.type == "cuda"
    rate = torch.tensor(recipe.learning_rate, device=device) if on_gpu else recipe.learning_rate
    groups = _groups(network, recipe)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            groups,
            lr=rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            nesterov=recipe.nesterov,
            fused=True,
        )
    kind = torch.optim.AdamW if recipe.decoupled_decay else torch.optim.Adam
    return kind(groups, lr=rate, weight_decay=recipe.weight_decay, fused=True, capturable=on_gpu)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of the next steps."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def parameter_state(optimizer: torch.optim.Optimizer, recipe: Recipe) -> dict[Tensor, dict[str, Tensor]]:
    """Return the optimiser's state of each parameter, under PyTorch's names: the tensors themselves, not copies.

    Before the first step the optimiser has no state. New tensors are then returned, which the caller can hand over with
    ``optimizer.state.update``. They have the memory layout of their parameter, as a fused step requires.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return {parameter: optimizer.state.get(parameter) or _initial_state(parameter, recipe) for parameter in parameters}


def _initial_state(parameter: Tensor, recipe: Recipe) -> dict[str, Tensor]:
    if recipe.optimizer == "adam":
        steps = torch.zeros((), dtype=torch.float32, device=parameter.device)
        return {"step": steps, "exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter)}
    return {"momentum_buffer": torch.zeros_like(parameter)} if recipe.momentum else {}


def _groups(network: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Return all parameters in groups with and without decay; scales, shifts and biases have a single dimension."""
    parameters = list(network.parameters())
    if recipe.decay_norm_and_bias:
        return [{"params": parameters}]
    kernels = [parameter for parameter in parameters if parameter.ndim > 1]
    others = [parameter for parameter in parameters if parameter.ndim <= 1]
    return [{"params": kernels}, {"params": others, "weight_decay": 0.0}]
