"""``budgetnas studies``: the studies of a storage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from budgetnas.cli.console import print_json, stdout, table
from budgetnas.cli.options import JsonFlag, StorageOption
from budgetnas.cli.storage import records_to_read
from budgetnas.metrics import ACCURACY

if TYPE_CHECKING:
    from budgetnas.report.values import StudyTables


def studies_command(storage: StorageOption = None, as_json: JsonFlag = False) -> None:
    """List the studies of a storage and the built-in study files.

    Example: budgetnas studies
    """
    from budgetnas.space.presets import shipped_studies

    tables = _all_tables(storage)
    if as_json:
        print_json(
            [
                {
                    "study": study.study,
                    "budget": study.specification.max_params,
                    "max_macs": study.specification.max_macs,
                    "max_activations": study.specification.max_activations,
                    "max_weight_bytes": study.specification.max_weight_bytes,
                    "max_ram_bytes": study.specification.max_ram_bytes,
                    "trained": study.tallies.trained,
                    "failed": study.tallies.failed,
                    "best": study.ranking[0].accuracy if study.ranking else None,
                }
                for study in tables
            ]
        )
        return
    rows = []
    for study in tables:
        budget, measure = study.specification.budget, study.specification.measure
        best = f"{study.ranking[0].accuracy:.2%}" if study.ranking else "-"
        if measure != ACCURACY:
            best = f"{best} ({measure.words})"
        limits = f"{budget.max_params:,}" if len(budget.limits) == 1 else str(budget)
        rows.append((study.study, study.summary.data, limits, str(study.tallies.trained), best))
    columns = ("study", "data", "budget", "trained", "best validation")
    stdout().print(table("Studies", columns, rows, left=2) if rows else "no studies yet")
    stdout().print(f"built-in study files: {', '.join(shipped_studies())}", markup=False)


def _all_tables(storage: str | None) -> list[StudyTables]:
    from budgetnas.report.tables import study_tables
    from budgetnas.storage.urls import DEFAULT_STORAGE, parse_storage, sqlite_file

    if storage is None and not sqlite_file(parse_storage(DEFAULT_STORAGE)).exists():
        return []
    records = records_to_read(storage)
    return [study_tables(records, name) for name in records.study_names()]
