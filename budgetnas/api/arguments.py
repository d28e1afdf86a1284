"""Checks of arguments that only a Python program can give a wrong type."""

from __future__ import annotations

import operator
import os
from pathlib import Path
from typing import SupportsIndex

from budgetnas.api.trials import Trial
from budgetnas.errors import InputError
from budgetnas.report.values import Chosen
from budgetnas.storage import Run


def as_path(argument: str, value: object, hint: str) -> Path:
    """Return a path.

    Raises:
        InputError: If `value` is neither text nor a path.
    """
    if not isinstance(value, str | os.PathLike):
        raise _wrong_type(argument, value, "must be a path: text or a pathlib.Path", hint)
    return Path(value)


def as_name(argument: str, value: object) -> str:
    """Return the name of a study.

    Raises:
        InputError: If `value` is not text.
    """
    if not isinstance(value, str):
        raise _wrong_type(argument, value, "must be text: the name of a study", 'write e.g. "cifar10-5M"')
    return value


def run_number(run: object) -> int | None:
    """Return the number of the run that `run` names, or None for None.

    Raises:
        InputError: If it is neither a trial, a run, the best network of a study, nor a whole number.
    """
    if run is None:
        return None
    if isinstance(run, Trial):
        return run.run
    record = run.run if isinstance(run, Chosen) else run
    number = record.id if isinstance(record, Run) else record
    if isinstance(number, bool) or not isinstance(number, SupportsIndex):
        rule = "must be a trial or run of the study, study.best, or the number of a run"
        raise InputError("run", run, rule, "write e.g. run=study.trials[0]")
    return operator.index(number)


def _wrong_type(argument: str, value: object, rule: str, hint: str) -> InputError:
    """Return the error for a value of a wrong type; `InputError` shows no None."""
    return InputError(argument, value, f"{rule}, not None" if value is None else rule, hint)
