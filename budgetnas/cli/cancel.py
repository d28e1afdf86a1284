"""``budgetnas cancel``: stop a study, wherever it is trained."""

from __future__ import annotations

from contextlib import closing

from budgetnas.cli.console import stdout
from budgetnas.cli.options import StorageOption, StudyArgument
from budgetnas.errors import plural


def cancel_command(study: StudyArgument, storage: StorageOption = None) -> None:
    """Cancel a study: its processes requeue their trainings, and no worker trains it until it is searched again.

    Example: budgetnas cancel cifar10-5M
    """
    from budgetnas.searching.management import cancel_study
    from budgetnas.storage.opening import open_records
    from budgetnas.storage.urls import DEFAULT_STORAGE, parse_storage

    with closing(open_records(parse_storage(storage or DEFAULT_STORAGE), must_exist=True)) as records:
        working = cancel_study(records, study)
    asked = f"; {plural(working, 'worker')} will requeue the training within seconds" if working else ""
    stdout().print(f"study {study} is cancelled{asked}")
