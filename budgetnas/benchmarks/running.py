"""Runs a benchmark from the shell: bad input is told in one line, with the exit code that it has everywhere."""

from __future__ import annotations

import sys
from collections.abc import Callable

import typer

from budgetnas.errors import BudgetnasError


def run(measure: Callable[..., None]) -> None:
    """Run `measure` with the arguments of the shell, and exit."""
    try:
        typer.run(measure)
    except BudgetnasError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
