"""The check that a database is still the noted file and no older."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from budgetnas.storage.same_file import SameFile

PAGES = slice(28, 32)
"""Where the header of an SQLite database counts its pages."""


def database(path: Path, count: int) -> bytes:
    """Write a database with this count of transactions, and return the file."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS rows (value)")
        connection.execute("INSERT INTO rows VALUES (zeroblob(20000))")
        connection.execute(f"PRAGMA user_version = {count}")
        connection.commit()
    return path.read_bytes()


def test_a_header_that_counts_more_pages_than_the_file_has_is_no_older_copy(tmp_path: Path) -> None:
    """A checkpoint writes the header first, and may be read, or its process killed, before it writes new pages."""
    path = tmp_path / "a.db"
    file = bytearray(database(path, 7))
    same = SameFile(path)
    same.note()
    file[PAGES] = (int.from_bytes(file[PAGES], "big") + 3).to_bytes(4, "big")
    path.write_bytes(file)
    same.check()
    database(tmp_path / "b.db", 6)
    path.write_bytes((tmp_path / "b.db").read_bytes() + bytes(4096))
    with pytest.raises(OperationalError, match="overwritten by an older copy"):
        same.check()
