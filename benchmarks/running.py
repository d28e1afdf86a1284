"""Runs a benchmark from the shell: bad input is told in one line, with the exit code that it has everywhere."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from typing import NoReturn

import typer

from budgetnas.cli.usage import USAGE_ERROR, usage_problem
from budgetnas.errors import EXIT_BAD_INPUT, BudgetnasError


def run(measure: Callable[..., None]) -> None:
    """Run `measure` with the arguments of the shell, and exit.

    SIGINT interrupts it also where a shell started it in the background, which has it ignored.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(measure)
    try:
        code = app(standalone_mode=False)
    except BudgetnasError as error:
        _fail(str(error), error.exit_code)
    except USAGE_ERROR as error:
        _fail(f"{usage_problem(error)}; see --help", EXIT_BAD_INPUT)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(f"error: {' '.join(message.split())}", err=True)
    sys.exit(code)
