"""``budgetnas delete``: remove a study with all of its records."""

from __future__ import annotations

import sys
from contextlib import closing
from typing import Annotated

import typer

from budgetnas.api.progress.terminal import stderr
from budgetnas.cli.console import stdout
from budgetnas.cli.options import StorageOption, StudyArgument
from budgetnas.errors import InputError


def delete_command(
    study: StudyArgument,
    storage: StorageOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Delete without asking.")] = False,
) -> None:
    """Delete a study: its trials, epochs, weights, checkpoints and finals, and Optuna's study.

    Example: budgetnas delete cifar10-5M
    """
    from budgetnas.report.tables import study_tables
    from budgetnas.runs.interrupts import stopping_at_once
    from budgetnas.searching.management import delete_study
    from budgetnas.storage.opening import open_records
    from budgetnas.storage.urls import DEFAULT_STORAGE, parse_storage

    with closing(open_records(parse_storage(storage or DEFAULT_STORAGE), must_exist=True)) as records:
        trained = study_tables(records, study).tallies.trained
        if not yes and not _confirmed(
            f"Delete study {study} with the records and weights of {trained} trained trials?"
        ):
            raise InputError("STUDY", study, "is kept", "answer y, or add --yes")
        with stopping_at_once():
            delete_study(records, study, stderr().print)
    stdout().print(f"study {study} is deleted")


def _confirmed(question: str) -> bool:
    stderr().print(f"{question} [y/N] ", end="")
    return sys.stdin.readline().strip().lower() in ("y", "yes")  # without an answer it is kept
