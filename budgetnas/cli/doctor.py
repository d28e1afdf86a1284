"""``budgetnas doctor``: check whether a search can run here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from budgetnas.cli.completion import study_names
from budgetnas.cli.console import print_json, stdout
from budgetnas.cli.options import DataDirOption, DeviceOption, JsonFlag, StorageOption, option
from budgetnas.errors import EXIT_DONE, EXIT_FAILED

if TYPE_CHECKING:
    from budgetnas.cli.checks import Check


def doctor_command(
    storage: StorageOption = None,
    study: Annotated[
        str | None,
        option("Check that the data match this existing study.", "BUDGETNAS_STUDY", autocompletion=study_names),
    ] = None,
    data: Annotated[
        str | None, option("cifar10, ... or folder:DIR.", "BUDGETNAS_DATA", default="the study's, or cifar10")
    ] = None,
    data_dir: DataDirOption = None,
    device: DeviceOption = "auto",
    as_json: JsonFlag = False,
) -> None:
    """Check versions, device, storage, data and free space, with a hint for each problem. Changes nothing.

    Example: budgetnas doctor --storage results.db --study cifar10-5M
    """
    from budgetnas.cli.checks import DoctorRequest, examine
    from budgetnas.storage.urls import DEFAULT_STORAGE

    running = examine(DoctorRequest(storage or DEFAULT_STORAGE, study, data, data_dir, device))
    checks = list(running) if as_json else list(_printed(running))
    if as_json:
        print_json([check.to_json() for check in checks])
    raise typer.Exit(EXIT_FAILED if any(check.state == "problem" for check in checks) else EXIT_DONE)


def _printed(checks: Iterator[Check]) -> Iterator[Check]:
    """Print each check as soon as it is done, then the number of problems and warnings."""
    console, states = stdout(), []
    for check in checks:
        detail = f"{check.detail}; {check.hint}" if check.hint else check.detail
        console.print(f"{check.state:<8} {check.check}: {detail}", soft_wrap=True)
        states.append(check.state)
        yield check
    problems, warnings = states.count("problem"), states.count("warning")
    console.print(f"\nproblems: {problems}, warnings: {warnings}")
