"""What the Tab key offers: names of studies, networks, recorded runs and shipped study files.

Each function is called by the shell's completion only, and imports what it needs then.
"""

from __future__ import annotations

import os

import typer


def study_names(context: typer.Context, incomplete: str) -> list[str]:
    """Return the studies in the storage of the command line, if it is a SQLite file.

    A PostgreSQL server is not asked: it can take seconds to answer, or need a password. A file that cannot be read has
    no names, because an error would be printed into the command that the user writes.
    """
    import sqlite3
    from contextlib import closing

    from budgetnas.errors import InputError
    from budgetnas.storage.urls import DEFAULT_STORAGE, parse_storage, sqlite_file

    text = context.params.get("storage") or os.environ.get("BUDGETNAS_STORAGE") or DEFAULT_STORAGE
    try:
        url = parse_storage(text)
        if url.get_backend_name() != "sqlite":
            return []
        with closing(sqlite3.connect(f"{sqlite_file(url).as_uri()}?mode=ro", uri=True)) as connection:
            rows = connection.execute("SELECT study FROM specifications ORDER BY study").fetchall()
    except (InputError, sqlite3.Error):
        return []
    return [name for (name,) in rows if name.startswith(incomplete)]


def network_names(incomplete: str) -> list[str]:
    """Return the networks that ``count`` knows."""
    from budgetnas.architecture import NAMES

    return [name for name in NAMES if name.startswith(incomplete)]


def recorded_run_names(incomplete: str) -> list[str]:
    """Return the recorded runs of the source report."""
    from budgetnas.experiments.published import recorded_runs

    return [name for name in recorded_runs() if name.startswith(incomplete)]


def study_file_names(incomplete: str) -> list[str]:
    """Return the shipped study files; the shell completes paths."""
    from budgetnas.space.presets import shipped_studies

    return [name for name in shipped_studies() if name.startswith(incomplete)]
