"""``budgetnas rename``: give a study another name."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated

import typer

from budgetnas.cli.console import stdout
from budgetnas.cli.options import StorageOption


def rename_command(
    old: Annotated[str, typer.Argument(metavar="OLD", help="Name of a study, as budgetnas studies lists it.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="Its new name.")],
    storage: StorageOption = None,
) -> None:
    """Rename a study, in the records and in Optuna's tables.

    Example: budgetnas rename cifar10-5M baseline
    """
    from budgetnas.searching.management import rename_study
    from budgetnas.storage.opening import open_records
    from budgetnas.storage.urls import DEFAULT_STORAGE, parse_storage

    with closing(open_records(parse_storage(storage or DEFAULT_STORAGE), must_exist=True)) as records:
        rename_study(records, old, new)
    stdout().print(f"study {old} is now {new}")
