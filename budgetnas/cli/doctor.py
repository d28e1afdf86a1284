"""``budgetnas doctor``: what may keep a search from running here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from budgetnas.cli.console import print_json, stdout
from budgetnas.cli.options import DataDirOption, DeviceOption, JsonFlag, StorageOption
from budgetnas.errors import EXIT_DONE, EXIT_FAILED

if TYPE_CHECKING:
    from budgetnas.cli.checks import Check


def doctor_command(
    storage: StorageOption = None,
    study: Annotated[
        str | None,
        typer.Option(help="A study that shall go on: are its data these?", envvar="BUDGETNAS_STUDY"),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="cifar10, ... or folder:DIR.", envvar="BUDGETNAS_DATA", show_default="the study's, or cifar10"
        ),
    ] = None,
    data_dir: DataDirOption = None,
    device: DeviceOption = "auto",
    as_json: JsonFlag = False,
) -> None:
    """Check versions, device, storage, data and free space, and say what to do; nothing is changed.

    Example: budgetnas doctor --storage results.db --study cifar10-5M
    """
    from budgetnas.cli.checks import DoctorRequest, examine
    from budgetnas.storage.urls import DEFAULT_STORAGE

    found = examine(DoctorRequest(storage or DEFAULT_STORAGE, study, data, data_dir, device))
    checks = list(found) if as_json else list(_printed(found))
    if as_json:
        print_json([asdict(one) for one in checks])
    raise typer.Exit(EXIT_FAILED if any(one.state == "problem" for one in checks) else EXIT_DONE)


def _printed(found: Iterator[Check]) -> Iterator[Check]:
    """Print each check as soon as it is made, then how many are not well."""
    console, states = stdout(), []
    for one in found:
        told = f"{one.detail}; {one.way_out}" if one.way_out else one.detail
        console.print(f"{one.state:<8} {one.check}: {told}", markup=False, soft_wrap=True)
        states.append(one.state)
        yield one
    problems, warnings = states.count("problem"), states.count("warning")
    console.print(f"\nproblems: {problems}, warnings: {warnings}", markup=False)
