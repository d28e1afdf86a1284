"""Processor and GPUs."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import psutil

from budgetnas.cli.checks.check import Check, many, one_line, size_of
from budgetnas.errors import InputError


def devices(asked: str) -> Iterator[Check]:
    """Look at processor and GPUs, and whether the one asked for is there."""
    import torch

    from budgetnas.training import choose_runtime
    from budgetnas.training.runtime import device_name, gains_from_bf16

    cpu = torch.device("cpu")
    memory = psutil.virtual_memory()
    yield Check(
        "cpu",
        "ok",
        f"{device_name(cpu)}, {many(os.cpu_count() or 1, 'core')}, {many(torch.get_num_threads(), 'thread')}, "
        f"{size_of(memory.total)} memory ({size_of(memory.available)} free), {_bfloat16(gains_from_bf16(cpu))}",
    )
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        usable = torch.cuda.is_available()
    for index in range(torch.cuda.device_count() if usable else 0):
        one = torch.device("cuda", index)
        size = size_of(torch.cuda.get_device_properties(one).total_memory)
        detail = f"{device_name(one)}, {size} memory, {_bfloat16(gains_from_bf16(one))}"
        yield Check(f"cuda:{index}", "ok", detail)
    if not usable and Path("/dev/nvidiactl").exists():
        reason = f" ({one_line(told[0].message)})" if told else ""
        way_out = "install a torch that is built for this driver's CUDA"
        yield Check("gpu", "warning", f"there is one, but torch {torch.__version__} cannot use it{reason}", way_out)
    try:
        chosen = choose_runtime(asked)
    except InputError as error:
        yield Check("--device", "problem", f"{asked} {error.rule}", error.hint or "use --device auto or cpu")
    else:
        yield Check("--device", "ok", f"{asked}: {chosen.device}, {chosen.precision}")


def _bfloat16(there: bool) -> str:
    return "computes in bfloat16" if there else "no instructions for bfloat16"
