"""A report as one self-contained HTML file, which a browser opens without any request."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from budgetnas import __version__
from budgetnas.errors import InputError, unwritable
from budgetnas.experiments import published
from budgetnas.experiments.replay_results import ReplayResult, report_tables
from budgetnas.report.figures import study_figures
from budgetnas.report.figures.figure import Figure
from budgetnas.report.figures.finalists import spread
from budgetnas.report.figures.importance import EVALUATOR, FEWEST_RUNS, compared, top_count
from budgetnas.report.figures.replay import replay_curves
from budgetnas.report.tables import study_tables
from budgetnas.report.values import StudyTables, name_of
from budgetnas.report.wording import environment_line
from budgetnas.storage import Records

# Characters that could end the script element with the figures, or break a line in JavaScript.
_UNSAFE_IN_SCRIPT = re.compile("[<>&\u2028\u2029]")
_LONGEST_NAME: Final = 180
"""Bytes: file systems allow 255, and a suffix and a temporary name are added."""


def write_study_report(records: Records, study: str, out: Path) -> Path:
    """Write the report of `study` as one HTML file; return its path.

    Raises:
        InputError: If the storage has no such study, or the file cannot be written.
        BudgetnasError: If the disk is full.
    """
    return _write(study_page(study_tables(records, study)), out)


def study_page(tables: StudyTables) -> str:
    """Return the report of a study as HTML."""
    shown = study_figures(tables)
    number = len(compared(tables.ranking, tables.specification))
    return _render(
        "study.html.j2",
        shown,
        tables.study,
        tables=tables,
        figures={figure.key: figure for figure in shown},
        evaluator=EVALUATOR,
        fewest_runs=FEWEST_RUNS,
        compared_runs=number,
        top_runs=top_count(number or 1),
    )


def write_replay_report(results: Sequence[ReplayResult], out: Path) -> Path:
    """Write the report of replays as one HTML file; return its path.

    Raises:
        InputError: If the file cannot be written.
        BudgetnasError: If the disk is full.
    """
    shown = [replay_curves(result, f"replay-{place}") for place, result in enumerate(results, start=1)]
    html = _render(
        "replay.html.j2",
        shown,
        "replay",
        replays=[
            {"result": result, "environment": environment_line(result.record.environment), "figure": figure}
            for result, figure in zip(results, shown, strict=True)
        ],
        tables=report_tables(results),
        contradictions=published.contradictions().values(),
        curves_accuracy=published.curves_accuracy(),
    )
    return _write(html, out)


def report_name(study: str) -> str:
    """Return a study's name, of any characters and length, as the beginning of a valid file name."""
    name = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in study).lstrip(".") or "study"
    return name.encode()[:_LONGEST_NAME].decode(errors="ignore")


def _render(template: str, shown: Sequence[Figure], about: str, **values: Any) -> str:
    drawn = ",".join(f'"{figure.key}":{figure.figure.to_json()}' for figure in shown)
    tables = {
        figure.key: {"file": f"{report_name(about)}-{figure.key}.csv", "text": figure.data.csv()} for figure in shown
    }
    return (
        _environment()
        .get_template(template)
        .render(
            **values,
            version=__version__,
            # For script elements: the library is trusted, the figures are escaped.
            plotly=Markup(get_plotlyjs()) if shown else Markup(""),
            figures_json=Markup(_for_script(f"{{{drawn}}}")),
            data_json=Markup(_for_script(json.dumps(tables))),
        )
    )


def _for_script(text: str) -> str:
    return _UNSAFE_IN_SCRIPT.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("budgetnas.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": _percent,
        "thousands": lambda value: f"{value:,}",
        "signed": lambda value: "" if value is None else f"{value:+.2f}",
        "points": lambda value: "-" if value is None else f"{100 * value:+.2f}",
        "fixed": lambda value: "-" if value is None else f"{value:.2f}",
        "duration": _duration,
        "name": name_of,
        "spread": spread,
    }
    environment.globals["zip"] = zip
    return environment


def _percent(share: float | None, digits: int = 2) -> str:
    return "-" if share is None else f"{100 * share:.{digits}f}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _write(html: str, out: Path) -> Path:
    """Write atomically: a reader of `out` never sees half a page."""
    if out.is_dir():
        raise InputError("--out", str(out), "is a folder", "name a file in it, e.g. report.html")
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(html, encoding="utf-8")
        os.replace(temporary, out)
    except OSError as error:
        raise unwritable("--out", out, error, "check the folder") from None
    finally:
        with suppress(OSError):
            temporary.unlink()
    return out
