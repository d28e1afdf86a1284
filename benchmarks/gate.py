"""What the gate lets through: random proposals of the default space, and whether one of them is over a limit.

Three others check the gate. A closed form, written without our layers, counts every accepted network again. Some of
them are built in PyTorch, where parameters and bytes of weights are counted as their tensors have them, and
multiply-accumulates, activations and the peak of RAM in a forward pass. And some are written as ONNX files: their
logits are compared with the network's, and the weights of their int8 files with the counted bytes.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
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
_IMAGES = 16


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
    max_weights_kb: Annotated[
        str | None, typer.Option(help="Limit on int8 weights, in KB.", show_default="none")
    ] = None,
    max_ram_kb: Annotated[str | None, typer.Option(help="Limit on activation RAM, in KB.", show_default="none")] = None,
    size: Annotated[int, typer.Option(help="Side of an image in pixels.")] = 32,
    proposals: Annotated[int, typer.Option(help="Proposals, drawn evenly from the default space.", min=1)] = 1_000_000,
    built: Annotated[int, typer.Option(help="Accepted networks to build.", min=0)] = 200,
    exported: Annotated[int, typer.Option(help="Built networks to compare with their ONNX file.", min=0)] = 0,
    seed: SeedOption = 0,
) -> None:
    """Hold random proposals against the limits, and check what was accepted in three other ways."""
    limits = Budget(
        parse_budget(budget),
        parse_limit(max_macs, "macs"),
        parse_limit(max_activations, "activations"),
        parse_limit(max_weights_kb, "weight_bytes"),
        parse_limit(max_ram_kb, "ram_bytes"),
    )
    passed = propose(limits, proposals, built, seed, size=size)
    wrong = sum(counts_of_built(one) != count(one) for one in passed.sample)
    gated = sum(one.se for one in passed.sample)
    files = [files_agree(one) for one in passed.sample[:exported]]
    other, bytes_differ = (sum(not checks[place] for checks in files) for place in range(2))
    typer.echo(
        f"{limits}, {size}x{size} pixels: {passed.accepted:,} of {proposals:,} proposals accepted "
        f"({passed.accepted / proposals:.2%}) in {passed.seconds:.0f} s; over a limit: {passed.over}; "
        f"counted otherwise by the closed form: {passed.differing}; "
        f"built: {len(passed.sample)}, {gated} of them with squeeze-and-excitation, with other counts: {wrong}; "
        f"exported: {len(files)}, with other logits: {other}, with other int8 weights: {bytes_differ}"
    )
    typer.echo(machine())
    if passed.over or passed.differing or wrong or other or bytes_differ:
        raise SearchFailedError("the gate let through what it must not, or counts, logits or bytes differ")


def propose(budget: Budget, proposals: int, sample: int, seed: int, *, size: int = 32) -> Passed:
    """Draw proposals and hold each against `budget`; keep `sample` of the accepted ones."""
    inputs = InputShape(in_channels=3, size=size, classes=10)
    generator, chooser = random.Random(seed), random.Random(seed + 1)
    accepted = over = differing = 0
    kept: list[Architecture] = []
    seconds = 0.0
    for _ in range(proposals):
        started = time.perf_counter()
        architecture = _SPACE.architecture(_SPACE.draw(generator), inputs)
        fits = budget.fits(architecture)
        seconds += time.perf_counter() - started
        if not fits:
            continue
        accepted += 1
        closed = closed_form(architecture)
        over += any(limit.count(closed) > limit.value for limit in budget.limits)
        differing += closed != count(architecture)
        place = len(kept) if len(kept) < sample else chooser.randrange(accepted)
        if place < sample:
            kept[place : place + 1] = [architecture]
    return Passed(accepted, over, differing, tuple(kept), seconds)


def closed_form(network: Architecture) -> Counts:
    """Return the counts of a network of the default space, for images of three channels and 10 classes.

    A 3x3 stem as wide as the first stage, with stride 2 above 48 pixels and a pool of stride 2 above 96; basic blocks
    with two 3x3 convolutions; strides 1, 2, 2, ...; a 1x1 projection where width or stride change; normalisation after
    each convolution; a linear layer. With squeeze-and-excitation each block has two linear layers, with a sixteenth of
    the channels between them, at least 4.

    RAM: a block keeps its input and has two more activations of its output's size, or its output and both vectors of a
    gate. Elsewhere a layer has its input and its output.
    """
    width, side = network.widths[0], _halved(network.size) if network.size > 48 else network.size
    convolutions = [(27 * width, width, side)]
    peaks = [3 * network.size**2 + width * side**2]
    if network.size > 96:
        peaks.append(width * (side**2 + _halved(side) ** 2))
        side = _halved(side)
    gate_weights = gate_biases = 0
    for stage, (number, wide) in enumerate(zip(network.blocks, network.widths, strict=True)):
        before, side = side, _halved(side) if stage else side
        for block in range(number):
            gate = (wide + max(4, wide // 16)) * network.se
            kept = width * (side if block else before) ** 2
            peaks.append(kept + wide * side**2 + max(wide * side**2, gate))
            convolutions += [(9 * width * wide, wide, side), (9 * wide * wide, wide, side)]
            if width != wide or (stage > 0 and block == 0):
                convolutions.append((width * wide, wide, side))
            width = wide
        gate_weights += number * 2 * wide * max(4, wide // 16) * network.se
        gate_biases += number * (wide + max(4, wide // 16)) * network.se
    head = 10 * width
    peaks += [width * side**2 + width, width + 10]
    biases = sum(channels for _, channels, _ in convolutions) + gate_biases + 10
    return Counts(
        params=sum(weights + 2 * channels for weights, channels, _ in convolutions)
        + (gate_weights + gate_biases + head + 10),
        macs=sum(weights * side**2 for weights, _, side in convolutions) + gate_weights + head,
        activations=sum(channels * side**2 for _, channels, side in convolutions),
        weight_bytes=sum(weights for weights, _, _ in convolutions) + gate_weights + head + 8 * biases,
        ram_bytes=max(peaks),
    )


def _halved(side: int) -> int:
    return (side + 1) // 2


def counts_of_built(architecture: Architecture) -> Counts:
    """Return the counts of the network that PyTorch builds: its tensors, and what its layers do to one image.

    The network has shapes but no numbers (PyTorch's device ``meta``).
    """
    import torch

    from benchmarks.schedule import peak_of_built
    from budgetnas.training.network import build

    counted = dict.fromkeys(QUANTITIES, 0)

    def look(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        if isinstance(module, torch.nn.Conv2d):
            counted["activations"] += output.numel()
            counted["macs"] += output.numel() * module.weight[0].numel()
        elif isinstance(module, torch.nn.Linear):
            counted["macs"] += module.weight.numel()
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            counted["weight_bytes"] += module.weight.numel() + 8 * module.weight.shape[0]

    with torch.device("meta"), torch.no_grad():
        network = build(architecture).eval()
        image = torch.empty(1, architecture.in_channels, architecture.size, architecture.size)
        counted["ram_bytes"] = peak_of_built(network, image)
        for module in network.modules():
            module.register_forward_hook(look)
        network(image)
    counted["params"] = sum(one.numel() for one in network.parameters() if one.requires_grad)
    return Counts(**counted)


def files_agree(architecture: Architecture) -> tuple[bool, bool]:
    """Return whether the ONNX file's logits are PyTorch's on random images, and its int8 weights those counted."""
    import torch

    from budgetnas.bundle.contents import Preprocessing
    from budgetnas.bundle.int8_file import to_int8, weights_in_file
    from budgetnas.bundle.onnx_file import check_onnx, to_onnx
    from budgetnas.bundle.preparing import Preprocessor
    from budgetnas.space.recipe import Normalisation
    from budgetnas.training.network import build

    preprocessing = Preprocessing(
        classes=tuple(map(str, range(architecture.classes))),
        channels=3,
        resolution=architecture.size,
        normalisation=Normalisation(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
    )
    shape = (_IMAGES, 3, architecture.size, architecture.size)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    network, preprocess = build(architecture, seed=0), Preprocessor(preprocessing)
    with torch.no_grad():
        network(preprocess.normalised(pixels))  # running statistics other than 0 and 1
    network.eval()
    exported = to_onnx(network, preprocessing)
    quantised = to_int8(exported, pixels, preprocessing)
    same_logits = check_onnx(exported, network, preprocess, pixels).passed
    return same_logits, weights_in_file(quantised) == count(architecture).weight_bytes


if __name__ == "__main__":
    run(measure)
