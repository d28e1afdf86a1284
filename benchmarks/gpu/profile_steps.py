"""Where the time of ten plain (not captured) training steps goes: V2, and a network of about 50,000 parameters."""

from __future__ import annotations

from typing import Annotated

import torch
import typer
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.step_times import IMAGES, Case, configure, make_trainer


def main(
    archs: Annotated[str, typer.Option(help="Networks, as step_times reads them, separated by blanks.")] = (
        "v2 1,1,1/16,32,64/16"
    ),
    device: Annotated[str, typer.Option(help="cuda or cpu.")] = "cuda",
    steps: Annotated[int, typer.Option(help="Steps of each.")] = 10,
) -> None:
    """Print the operations that took longest."""
    for arch in archs.split():
        case = Case(arch, 128 if device != "cpu" else 16, graphs=False)
        configure(case)
        trainer = make_trainer(case, "cuda:0" if device != "cpu" else "cpu")
        order = torch.arange(IMAGES)[: steps * case.batch]
        for _ in trainer.steps(order):
            pass
        kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device != "cpu" else [])]
        with profile(activities=kinds) as profiled:
            for _ in trainer.steps(order):
                pass
            if device != "cpu":
                torch.cuda.synchronize()
        key = "self_cuda_time_total" if device != "cpu" else "self_cpu_time_total"
        print(f"== {arch}: {steps} plain steps of {case.batch}")
        print(profiled.key_averages().table(sort_by=key, row_limit=18, max_name_column_width=60))


if __name__ == "__main__":
    typer.run(main)
