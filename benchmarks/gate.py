"""What the gate lets through: random proposals of the default space, and whether one of them is over a limit.

Two others check the gate. A closed form, written without our layers, counts every accepted network again. And some of
them are built in PyTorch, where parameters are counted as they lie in memory, multiply-accumulates and activations in a
forward pass.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from benchmarks.options import BudgetOption, SeedOption
from benchmarks.running import run
from budgetnas.architecture import Architecture, Counts, count
from budgetnas.architecture.budget import QUANTITIES, Budget, parse_budget, parse_limit
from budgetnas.errors import SearchFailedError
from budgetnas.experiments.bench.hardware import machine
from budgetnas.space.search_space import InputShape, SearchSpace

if TYPE_CHECKING:
    import torch

_SPACE = SearchSpace()
_INPUTS = InputShape(in_channels=3, size=32, classes=10)


@dataclass(frozen=True, slots=True)
class Passed:
    """Outcome of the proposals.

    Attributes:
        accepted: How many the gate let through.
        over: How many of these are over a limit by the closed form.
        differing: How many the closed form counts otherwise than the gate.
        sample: Some of them, drawn evenly.
        seconds: Time that drawing and judging took, without the checks.
    """

    accepted: int
    over: int
    differing: int
    sample: tuple[Architecture, ...]
    seconds: float


def measure(
    budget: BudgetOption = "5e6",
    max_macs: Annotated[str | None, typer.Option(help="Limit on multiply-accumulates.", show_default="none")] = None,
    max_activations: Annotated[str | None, typer.Option(help="Limit on activations.", show_default="none")] = None,
    proposals: Annotated[int, typer.Option(help="Proposals, drawn evenly from the default space.", min=1)] = 1_000_000,
    built: Annotated[int, typer.Option(help="Accepted networks to build.", min=0)] = 200,
    seed: SeedOption = 0,
) -> None:
    """Hold random proposals against the limits, and check what was accepted in two other ways."""
    limits = Budget(parse_budget(budget), parse_limit(max_macs, "macs"), parse_limit(max_activations, "activations"))
    passed = propose(limits, proposals, built, seed)
    wrong = sum(counts_of_built(one) != count(one) for one in passed.sample)
    typer.echo(
        f"{limits}: {passed.accepted:,} of {proposals:,} proposals accepted ({passed.accepted / proposals:.2%}) in "
        f"{passed.seconds:.0f} s; over a limit: {passed.over}; counted otherwise by the closed form: "
        f"{passed.differing}; built: {len(passed.sample)}, with other counts: {wrong}"
    )
    typer.echo(machine())
    if passed.over or passed.differing or wrong:
        raise SearchFailedError("the gate let through what it must not, or counts differ")


def propose(budget: Budget, proposals: int, sample: int, seed: int) -> Passed:
    """Draw proposals and hold each against `budget`; keep `sample` of the accepted ones."""
    generator, chooser = random.Random(seed), random.Random(seed + 1)
    accepted = over = differing = 0
    kept: list[Architecture] = []
    seconds = 0.0
    for _ in range(proposals):
        started = time.perf_counter()
        architecture = _SPACE.architecture(_SPACE.draw(generator), _INPUTS)
        fits = budget.fits(architecture)
        seconds += time.perf_counter() - started
        if not fits:
            continue
        accepted += 1
        closed = closed_form(architecture.blocks, architecture.widths)
        over += any(limit.count(closed) > limit.value for limit in budget.limits)
        differing += closed != count(architecture)
        place = len(kept) if len(kept) < sample else chooser.randrange(accepted)
        if place < sample:
            kept[place : place + 1] = [architecture]
    return Passed(accepted, over, differing, tuple(kept), seconds)


def closed_form(blocks: tuple[int, ...], widths: tuple[int, ...]) -> Counts:
    """Return the counts of a network of the default space, for 3x32x32 images and 10 classes.

    A 3x3 stem as wide as the first stage; basic blocks with two 3x3 convolutions; strides 1, 2, 2, ...; a 1x1
    projection where width or stride change; normalisation after each convolution; a linear layer.
    """
    width, area = widths[0], 32 * 32
    convolutions = [(9 * 3 * width, width, area)]
    for stage, (number, wide) in enumerate(zip(blocks, widths, strict=True)):
        area //= 4 if stage else 1
        for block in range(number):
            convolutions += [(9 * width * wide, wide, area), (9 * wide * wide, wide, area)]
            if width != wide or (stage > 0 and block == 0):
                convolutions.append((width * wide, wide, area))
            width = wide
    return Counts(
        params=sum(weights + 2 * channels for weights, channels, _ in convolutions) + 10 * width + 10,
        macs=sum(weights * pixels for weights, _, pixels in convolutions) + 10 * width,
        activations=sum(channels * pixels for _, channels, pixels in convolutions),
    )


def counts_of_built(architecture: Architecture) -> Counts:
    """Return the counts of the network that PyTorch builds: its tensors, and what its layers do to one image."""
    import torch

    from budgetnas.training.network import build

    network = build(architecture).eval()
    counted = dict.fromkeys(QUANTITIES, 0)

    def look(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        if isinstance(module, torch.nn.Conv2d):
            counted["activations"] += output.numel()
            counted["macs"] += output.numel() * module.weight[0].numel()
        elif isinstance(module, torch.nn.Linear):
            counted["macs"] += module.weight.numel()

    for module in network.modules():
        module.register_forward_hook(look)
    with torch.no_grad():
        network(torch.zeros(1, architecture.in_channels, architecture.size, architecture.size))
    counted["params"] = sum(one.numel() for one in network.parameters() if one.requires_grad)
    return Counts(**counted)


if __name__ == "__main__":
    run(measure)
