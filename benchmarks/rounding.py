"""How far gradients of float32, bf16 and fp16 are from those of 64, for both layouts of activations."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as functional
import typer
from torch import Tensor

from benchmarks.options import BlocksOption, StemWidthOption, WidthsOption
from benchmarks.running import run
from budgetnas.architecture import Architecture, count, parse_architecture
from budgetnas.experiments.bench.hardware import machine
from budgetnas.training.network import ResNet, build

_LOSS_SCALE = 65536.0
_LAYOUTS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}


def measure(
    blocks: BlocksOption = "1,1,1",
    widths: WidthsOption = "8,16,32",
    stem_width: StemWidthOption = 8,
    batch: Annotated[int, typer.Option(help="Images in the step.", min=2)] = 128,
    seeds: Annotated[int, typer.Option(help="Networks and batches of random images.", min=1)] = 5,
    threads: Annotated[int, typer.Option(help="Threads of a CPU operation.", min=1)] = 1,
) -> None:
    """Print the norm of the difference of all gradients by the norm of those of 64 bits: lowest and highest of all."""
    architecture = parse_architecture(blocks, widths, stem_width=stem_width)
    torch.set_num_threads(threads)
    typer.echo(
        f"{architecture.describe()}, {count(architecture).params:,} parameters, batch {batch}, random images "
        f"and labels, {threads} thread{'' if threads == 1 else 's'}, n = {seeds}"
    )
    exact = [_gradients(architecture, batch, seed, torch.float64, "contiguous") for seed in range(seeds)]
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for layout in _LAYOUTS:
            errors = [
                float((_gradients(architecture, batch, seed, dtype, layout) - truth).norm() / truth.norm())
                for seed, truth in enumerate(exact)
            ]
            typer.echo(f"{str(dtype).removeprefix('torch.')}, {layout}: {min(errors):.1e} to {max(errors):.1e}")
    typer.echo(f"{machine()}, torch {torch.__version__}")


def _gradients(architecture: Architecture, batch: int, seed: int, dtype: torch.dtype, layout: str) -> Tensor:
    """Return all gradients of a step in a row: 16 bits as autocast over float32 weights, float16 with a scaled loss."""
    chance = torch.Generator().manual_seed(seed)
    side = architecture.size
    images = torch.randn(batch, architecture.in_channels, side, side, generator=chance)
    labels = torch.randint(0, architecture.classes, (batch,), generator=chance)
    half, scale = dtype.itemsize == 2, _LOSS_SCALE if dtype == torch.float16 else 1.0
    plain = torch.float32 if half else dtype
    network: ResNet = build(architecture, seed=seed).to(plain).to(memory_format=_LAYOUTS[layout])
    with torch.autocast("cpu", dtype, enabled=half):
        logits = network(images.to(plain).contiguous(memory_format=_LAYOUTS[layout]))
    (functional.cross_entropy(logits.to(plain), labels) * scale).backward()  # type: ignore[no-untyped-call]
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    return torch.cat([gradient.flatten().double() / scale for gradient in gradients])


if __name__ == "__main__":
    run(measure)
