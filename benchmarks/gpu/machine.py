"""The machine of a measurement: GPUs, versions, processor."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import psutil
import torch
import typer

from budgetnas.training.gpu import GpuFacts
from budgetnas.training.runtime import device_name


def facts() -> dict[str, Any]:
    """Return what has to be stated with every figure."""
    return {
        "gpu": asdict(GpuFacts.of_this_process()),
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        "python": platform.python_version(),
        "processor": device_name(torch.device("cpu")),
        "cores": psutil.cpu_count(),
    }


def main(out: Annotated[Path, typer.Option(help="JSON file.")]) -> None:
    """Write the machine's facts, and print them."""
    text = json.dumps(facts(), indent=2)
    out.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    typer.run(main)
