"""Storage URLs: parsing them, and showing them without their passwords."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from budgetnas.errors import InputError

DEFAULT_STORAGE: Final = "sqlite:///budgetnas.db"
_SCHEME: Final = re.compile(r"[a-z0-9+]+:?/+", re.IGNORECASE)
_HINT: Final = "write sqlite:///FILE.db or postgresql+psycopg://USER@HOST/DATABASE"


def parse_storage(text: str) -> URL:
    """Return the URL of a storage, after a check that its SQLite file can exist there.

    Raises:
        InputError: If it is not the URL of a supported database, or its file cannot exist there.
    """
    url = read_storage_url(text)
    if url.get_backend_name() == "sqlite":
        check_place(url)
    return url


def read_storage_url(text: str) -> URL:
    """Return the URL of a storage, without looking for its file.

    Args:
        text: A SQLAlchemy URL; ``postgresql://`` means psycopg 3; a path ending in ``.db`` means SQLite.

    Raises:
        InputError: If it is not the URL of a supported database.
    """
    is_url = "://" in text or text.startswith("sqlite:")
    is_path = not is_url and text.endswith((".db", ".sqlite", ".sqlite3"))
    try:
        url = URL.create("sqlite", database=text) if is_path else make_url(text)
    except (ArgumentError, ValueError):
        raise InputError("--storage", _without_password(text), "is not a storage URL", _HINT) from None
    if "@" in (url.host or ""):
        raise InputError("--storage", _without_password(text), "has an '@' in its password", "write it as %40")
    backend = url.get_backend_name()
    if backend == "postgresql":
        return url.set(drivername="postgresql+psycopg")
    if backend != "sqlite":
        raise InputError("--storage", masked(url), f"{backend} is not supported", _HINT)
    if url.host is not None:
        rule = "has two slashes; a SQLite URL has three before a relative path, and four before an absolute path"
        raise InputError("--storage", text, rule, f"write sqlite:///{url.host}/{url.database or ''}".rstrip("/"))
    if not url.database or url.database == ":memory:":
        raise InputError("--storage", masked(url), "must name a file, so that a search can be resumed", _HINT)
    if "\0" in text:
        raise InputError("--storage", masked(url), "has a null character, which no file's name has", _HINT)
    if "?" in text:
        raise InputError(
            "--storage", masked(url), "has a '?', which is not possible in the name of a SQLite file", _HINT
        )
    return url.set(drivername="sqlite", database=os.path.expanduser(url.database))


def masked(url: URL) -> str:
    """Return the URL as text without its passwords, including those in the options after ``?``."""
    options = {name: "..." if "pass" in name.lower() else value for name, value in url.query.items()}
    return url.set(query=options).render_as_string(hide_password=True)


def sqlite_file(url: URL) -> Path:
    """Return the file of a SQLite URL."""
    return Path(url.database or "").absolute()


def for_other_processes(url: URL) -> str:
    """Return the URL as text with its password, and with an absolute path, for a process in another folder."""
    absolute = url.set(database=str(sqlite_file(url))) if url.get_backend_name() == "sqlite" else url
    return absolute.render_as_string(hide_password=False)


def check_place(url: URL) -> None:
    """Check that the file of a SQLite storage can exist there.

    Raises:
        InputError: If it is a folder, or its folder does not exist.
    """
    file = sqlite_file(url)
    try:
        file.is_file()
    except OSError as error:
        raise InputError("--storage", masked(url), f"cannot name a file ({error.strerror})", _HINT) from None
    if file.is_dir():
        raise InputError("--storage", masked(url), "is a folder", "name a file in it, e.g. budgetnas.db")
    if not file.parent.is_dir():
        raise InputError("--storage", masked(url), f"folder {file.parent} does not exist", "create it first")


def _without_password(text: str) -> str:
    before, at, rest = text.rpartition("@")
    scheme = _SCHEME.match(before)
    return f"{scheme[0] if scheme else ''}{'***@' if at else ''}{rest.partition('?')[0]}"
