"""The study files that are part of the package."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from budgetnas.errors import InputError, closest

REPORT: Final = "report-2022"


def shipped(name: str) -> Path:
    """Return the path of a file of the package, e.g. ``shipped("report-2022.toml")``.

    Args:
        name: Name of the file, for a study file with or without ``.toml``.

    Raises:
        InputError: If there is no such file; it lists the files.
    """
    files = {path.name: path for path in sorted(_folder().iterdir()) if path.is_file()}
    for candidate in (name, f"{name}.toml"):
        if candidate in files:
            return files[candidate]
    studies = ", ".join(shipped_studies()) or "none"
    hint = f"{closest(name, shipped_studies())} or give a path to your own file".removeprefix(" or ")
    raise InputError("STUDY_FILE", name, f"no study file of that name is shipped; there are: {studies}", hint)


def shipped_studies() -> tuple[str, ...]:
    """Return the names of the study files without ``.toml``, except the source report's runs."""
    return tuple(sorted(path.stem for path in _folder().glob("*.toml") if path.stem != REPORT))


def _folder() -> Path:
    """Return the folder of study files: in the package if installed, next to it in a source checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "studies"
    return installed if installed.is_dir() else package.parent / "studies"
