"""``budgetnas studies``: the studies of a storage."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from budgetnas.architecture.budget import plain_limits
from budgetnas.cli.console import print_json, stdout, table
from budgetnas.cli.options import JsonFlag, StorageOption
from budgetnas.cli.storage import records_to_read
from budgetnas.metrics import ACCURACY

if TYPE_CHECKING:
    from budgetnas.report.standing import Standing
    from budgetnas.report.values import StudyTables


def studies_command(storage: StorageOption = None, as_json: JsonFlag = False) -> None:
    """List the studies of a storage, where each stands, and the built-in study files.

    Example: budgetnas studies
    """
    from budgetnas.space.presets import shipped_studies

    print_studies(storage, as_json=as_json)
    if not as_json:
        stdout().print(f"built-in study files: {', '.join(shipped_studies())}")


def print_studies(storage: str | None, *, as_json: bool) -> None:
    """Print the studies of a storage, and where each stands."""
    from budgetnas.storage.urls import DEFAULT_STORAGE, masked, parse_storage

    tables, stand = _all_tables(storage)
    if as_json:
        print_json(
            [
                {
                    "study": study.study,
                    **plain_limits(study.specification.budget),
                    "trained": study.tallies.trained,
                    "failed": study.tallies.failed,
                    "best": study.ranking[0].accuracy if study.ranking else None,
                }
                | stand[study.study].to_dict()
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
        standing = stand[study.study]
        done = f"{study.tallies.trained}" + (f"/{standing.trials}" if standing.trials is not None else "")
        rows.append((study.study, study.summary.data, standing.describe(), limits, done, best))
    columns = ("study", "data", "state", "budget", "trained", "best validation")
    nothing = f"no studies yet in {masked(parse_storage(storage or DEFAULT_STORAGE))}"
    stdout().print(table("Studies", columns, rows, left=3) if rows else nothing)


def _all_tables(storage: str | None) -> tuple[list[StudyTables], dict[str, Standing]]:
    from budgetnas.report.standing import standings
    from budgetnas.report.tables import study_tables
    from budgetnas.storage.urls import DEFAULT_STORAGE, parse_storage, sqlite_file

    if storage is None and not sqlite_file(parse_storage(DEFAULT_STORAGE)).exists():
        return [], {}
    with closing(records_to_read(storage)) as records:
        stand = standings(records)
        return [study_tables(records, name) for name in stand], stand
