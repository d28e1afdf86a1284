"""Runs a benchmark from the shell: bad input is told in one line, with the exit code that it has everywhere."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable

import typer

from budgetnas.errors import BudgetnasError


def run(measure: Callable[..., None]) -> None:
    """Run `measure` with the arguments of the shell, and exit.

    SIGINT interrupts it also where a shell started it in the background, which has it ignored.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        typer.run(measure)
    except BudgetnasError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
