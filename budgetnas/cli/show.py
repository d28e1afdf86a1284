"""``budgetnas show``: the result of a study."""

from __future__ import annotations

from budgetnas.cli.console import print_json
from budgetnas.cli.options import JsonFlag, StorageOption, StudyArgument
from budgetnas.cli.storage import records_to_read


def show_command(study: StudyArgument, storage: StorageOption = None, as_json: JsonFlag = False) -> None:
    """Print the ranking, the winner and the rejections of a study.

    Example: budgetnas show cifar10-5M
    """
    from budgetnas.cli.summary import print_summary
    from budgetnas.report.tables import study_tables

    tables = study_tables(records_to_read(storage), study)
    if as_json:
        print_json(tables.to_dict())
    else:
        print_summary(tables, storage)
