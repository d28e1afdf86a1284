"""A capture that fails on purpose, in a real search: its process ends, and a new one resumes without CUDA graphs.

On a GPU a captured step waits for the GPU, which CUDA refuses. A CPU captures nothing, so that a step raises the error.
Example: ``python -m benchmarks.gpu.failed_capture --out failed_capture.json``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from budgetnas.errors import EXIT_DONE, EXIT_RESTART

_SABOTAGE = """
import sys, torch
from budgetnas.cli.app import main
from budgetnas.training.cuda_graphs import CaptureError
from budgetnas.training.engine import Trainer

real = Trainer._make_step

def step(trainer, size):
    if trainer.runtime.device == "cpu":
        raise CaptureError("on purpose")
    if torch.cuda.is_current_stream_capturing():
        torch.cuda.synchronize()
    real(trainer, size)

Trainer._make_step = step
sys.exit(main())
"""


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        what: What the command was.
        code: Its exit code.
        expected: The exit code that it should have.
        lines: The last lines that it printed.
    """

    what: str
    code: int
    expected: int
    lines: list[str]


def search(what: str, program: list[str], folder: Path, device: str, expected: int) -> Ended:
    """Run a search of two trials with a Python program in front of it."""
    command = [sys.executable, *program, "search", "digits-demo", "--data", "digits", "--trials", "2", "--epochs", "2"]
    environment = os.environ | {"BUDGETNAS_CACHE_DIR": str(folder / "cache"), "BUDGETNAS_CHECKPOINT_DIR": str(folder)}
    done = subprocess.run(
        [*command, "--subset", "200", "--device", device, "--storage", f"sqlite:///{folder / 'search.db'}"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
        check=False,
    )
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    return Ended(what, done.returncode, expected, lines[-6:])


def main(
    device: Annotated[str, typer.Option(help="cuda or cpu.")] = "cuda",
    out: Annotated[Path, typer.Option(help="JSON file.")] = Path("failed_capture.json"),
) -> None:
    """Search with a failing capture, then resume; the exit code is 1 unless both end as they should."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first = search("a capture fails", ["-c", _SABOTAGE], folder, device, EXIT_RESTART)
        remembered = [json.loads(path.read_text()) for path in (folder / "cache").glob("cuda-graphs/*.json")]
        second = search("a new process", ["-m", "budgetnas"], folder, device, EXIT_DONE)
    results = [asdict(first), asdict(second)]
    text = json.dumps({"commands": results, "remembered": remembered}, indent=2)
    out.write_text(text + "\n", encoding="utf-8")
    print(text)
    if any(ended.code != ended.expected for ended in (first, second)) or not any(one["problem"] for one in remembered):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
