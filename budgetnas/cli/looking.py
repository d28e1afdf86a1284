"""``studies``, ``show``, ``report``, ``dashboard``: looking at what was trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from budgetnas.cli.options import JsonFlag, StorageOption, StudyArgument
from budgetnas.cli.output import check_out, print_json, stderr, stdout, table
from budgetnas.errors import EXIT_INTERRUPTED, InputError

if TYPE_CHECKING:
    from budgetnas.architecture.budget import Budget
    from budgetnas.report.values import StudyTables
    from budgetnas.storage import Records


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


def show_command(study: StudyArgument, storage: StorageOption = None, as_json: JsonFlag = False) -> None:
    """Print the ranking, the winner, and what was rejected.

    Example: budgetnas show cifar10-5M
    """
    from budgetnas.cli.summary import print_summary
    from budgetnas.report.tables import study_tables

    tables = study_tables(_records(storage), study)
    if as_json:
        print_json(tables.to_dict())
    else:
        print_summary(tables, storage)


def report_command(
    study: StudyArgument,
    storage: StorageOption = None,
    out: Annotated[Path | None, typer.Option(help="File to write.", show_default="STUDY-report.html")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Write one self-contained HTML file about a study.

    Example: budgetnas report cifar10-5M --out report.html
    """
    from budgetnas.report.page import report_name, write_study_report

    page = out or Path(f"{report_name(study)}-report.html")
    written = write_study_report(_records(storage), study, check_out(page))
    if as_json:
        print_json({"study": study, "report": str(written)})
    else:
        stdout().print(f"report: {written}", markup=False, soft_wrap=True)


def dashboard_command(
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8080,
    host: Annotated[str, typer.Option(help="Address to listen on; there is no password.")] = "127.0.0.1",
    storage: StorageOption = None,
) -> None:
    """Open the Optuna dashboard on the storage, for this machine only.

    Example: budgetnas dashboard --port 8080
    """
    from budgetnas.report.dashboard import is_this_machine, serve
    from budgetnas.storage.opening import open_records
    from budgetnas.storage.urls import DEFAULT_STORAGE, parse_storage

    if not 1 <= port <= 65_535:
        raise InputError("--port", port, "must be from 1 to 65,535")
    records = open_records(parse_storage(storage or DEFAULT_STORAGE), must_exist=True)
    if not is_this_machine(host):
        stderr().print(f"note: {host} may be reached by others, and the dashboard asks for no password", markup=False)
    stderr().print(f"dashboard: http://{host}:{port}/ (Ctrl-C ends it)", markup=False)
    serve(records, host, port)
    raise typer.Exit(EXIT_INTERRUPTED)  # a server ends by Ctrl-C alone


def _limits(budget: Budget) -> str:
    return f"{budget.max_params:,}" if len(budget.limits) == 1 else str(budget)


def _all_tables(storage: str | None) -> list[StudyTables]:
    from budgetnas.report.tables import study_tables
    from budgetnas.storage.urls import DEFAULT_STORAGE, parse_storage, sqlite_file

    if storage is None and not sqlite_file(parse_storage(DEFAULT_STORAGE)).exists():
        return []
    records = _records(storage)
    return [study_tables(records, name) for name in records.study_names()]


def _records(storage: str | None) -> Records:
    from budgetnas.storage.opening import look_at_records
    from budgetnas.storage.urls import DEFAULT_STORAGE, parse_storage

    return look_at_records(parse_storage(storage or DEFAULT_STORAGE))
