"""``budgetnas report``: an HTML page about a study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from budgetnas.cli.console import print_json, stdout
from budgetnas.cli.options import JsonFlag, StorageOption, StudyArgument, out_option
from budgetnas.cli.storage import records_to_read
from budgetnas.errors import check_out


def report_command(
    study: StudyArgument,
    storage: StorageOption = None,
    out: Annotated[Path | None, out_option("File to write.", "FILE", default="STUDY-report.html")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Write a self-contained HTML report of a study.

    Example: budgetnas report cifar10-5M --out report.html
    """
    from budgetnas.report.page import report_name, write_study_report

    page = out or Path(f"{report_name(study)}-report.html")
    written = write_study_report(records_to_read(storage), study, check_out(page))
    if as_json:
        print_json({"study": study, "report": str(written)})
    else:
        stdout().print(f"report: {written}", soft_wrap=True)
