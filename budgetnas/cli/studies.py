"""``budgetnas studies``: the studies of a storage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from budgetnas.cli.console import print_json, stdout, table
from budgetnas.cli.options import JsonFlag, StorageOption
from budgetnas.cli.storage import records_to_read

if TYPE_CHECKING:
    from budgetnas.architecture.budget import Budget
    from budgetnas.report.values import StudyTables


def studies_command(storage: StorageOption = None, as_json: JsonFlag = False) -> None:
    """List the studies of a storage, and the study files that are shipped.

    Example: budgetnas studies
    """
    from budgetnas.space.presets import shipped_studies

    tables = _all_tables(storage)
    if as_json:
        print_json(
            [
                {
                    "study": one.study,
                    "budget": one.specification.max_params,
                    "max_macs": one.specification.max_macs,
                    "max_activations": one.specification.max_activations,
                    "trained": one.tallies.trained,
                    "failed": one.tallies.failed,
                    "best": one.ranking[0].accuracy if one.ranking else None,
                }
                for one in tables
            ]
        )
        return
    rows = [
        (
            one.study,
            one.summary.data,
            _limits(one.specification.budget),
            str(one.tallies.trained),
            f"{one.ranking[0].accuracy:.2%}" if one.ranking else "-",
        )
        for one in tables
    ]
    columns = ("study", "data", "budget", "trained", "best validation")
    stdout().print(table("Studies", columns, rows, left=2) if rows else "no study yet")
    stdout().print(f"study files that are shipped: {', '.join(shipped_studies())}", markup=False)


def _limits(budget: Budget) -> str:
    return f"{budget.max_params:,}" if len(budget.limits) == 1 else str(budget)


def _all_tables(storage: str | None) -> list[StudyTables]:
    from budgetnas.report.tables import study_tables
    from budgetnas.storage.urls import DEFAULT_STORAGE, parse_storage, sqlite_file

    if storage is None and not sqlite_file(parse_storage(DEFAULT_STORAGE)).exists():
        return []
    records = records_to_read(storage)
    return [study_tables(records, name) for name in records.study_names()]
