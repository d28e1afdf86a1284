"""What every long call from Python shares: progress, requests to stop, and exceptions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import optuna
import torch

from budgetnas.api.progress.lines import Lines, NoLines, TerminalLines
from budgetnas.api.progress.notebook import NotebookLines, in_notebook
from budgetnas.api.wording import python_words
from budgetnas.errors import (
    EXIT_DONE,
    EXIT_INTERRUPTED,
    EXIT_RESTART,
    EXIT_TERMINATED,
    BudgetnasError,
    Interrupted,
    SearchFailedError,
    check_flag,
)
from budgetnas.runs.interrupts import Stopper
from budgetnas.training import RuntimeRules, runtime_rules

RESUMES: Final = "Every finished epoch is saved. The same call resumes."


@dataclass(frozen=True, slots=True)
class Call:
    """A long call."""

    lines: Lines  # where its progress is shown
    stopper: Stopper  # its requests to stop

    def runtime(self, device: str, precision: str) -> RuntimeRules:
        """Return the rules for a device and a precision, after showing their notes.

        Raises:
            InputError: If the device is missing, or a name is unknown.
        """
        rules = runtime_rules(device, precision)
        for note in rules.notes:
            self.lines.say(note)
        return rules


@contextmanager
def long_call(*, progress: bool, timeout_seconds: float | None = None) -> Iterator[Call]:
    """Yield a call; requests to stop it, and its errors, are raised as the exceptions that Python programs expect.

    Raises:
        KeyboardInterrupt: After Ctrl-C, or the interrupt button of a notebook.
        SystemExit: With code 143 after SIGTERM or SIGHUP.
        BudgetnasError: If the time limit has passed, or this process can no longer train.
    """
    check_flag("progress", progress)
    with python_words(), _same_log_of_optuna(), _usual_torch(), _lines(shown=progress) as lines:
        stopper = Stopper(timeout_seconds)
        try:
            with stopper.listening():
                yield Call(lines, stopper)
        except Interrupted as stop:
            if stop.exit_code in (EXIT_INTERRUPTED, EXIT_TERMINATED):
                lines.say(f"Stopped. {RESUMES}")
            raise _stopped(stop.exit_code, stop.reason) from None


@contextmanager
def _same_log_of_optuna() -> Iterator[None]:
    """Restore how much Optuna logs, which a search sets: it is the program's setting for studies of its own."""
    verbosity = optuna.logging.get_verbosity()
    try:
        yield
    finally:
        optuna.logging.set_verbosity(verbosity)


@contextmanager
def _usual_torch() -> Iterator[None]:
    """Undo what a program may have set for PyTorch's tensors; a training makes its own and needs gradients."""
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    torch.set_default_dtype(torch.float32)
    if device.type != "cpu":
        torch.set_default_device(None)
    try:
        with torch.inference_mode(mode=False), torch.enable_grad():
            yield
    finally:
        torch.set_default_dtype(dtype)
        if device.type != "cpu":
            torch.set_default_device(device)


def _lines(*, shown: bool) -> Lines:
    if not shown:
        return NoLines()
    return NotebookLines() if in_notebook() else TerminalLines()


def _stopped(exit_code: int, reason: str) -> BaseException:
    """Return the exception for a call that stopped early."""
    if exit_code == EXIT_INTERRUPTED:
        return KeyboardInterrupt()
    if exit_code == EXIT_TERMINATED:
        return SystemExit(EXIT_TERMINATED)
    if exit_code == EXIT_RESTART:
        return BudgetnasError(f"{reason}; start Python again, or restart the kernel")
    if exit_code == EXIT_DONE:
        return BudgetnasError(f"timeout: the time limit has passed. {RESUMES}")
    return SearchFailedError(reason)
