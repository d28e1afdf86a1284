from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from budgetnas.errors import InputError
from budgetnas.storage.engine import open_engine
from budgetnas.storage.urls import DEFAULT_STORAGE, masked, parse_storage, sqlite_file

SECRET = "s3cret"


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (DEFAULT_STORAGE, "sqlite:///budgetnas.db"),
        ("nas.db", "sqlite:///nas.db"),
        ("nas.sqlite", "sqlite:///nas.sqlite"),
        ("nas.sqlite3", "sqlite:///nas.sqlite3"),
        ("sqlite:///any-name", "sqlite:///any-name"),
        ("sqlite+pysqlite:///nas.db", "sqlite:///nas.db"),
        ("sqlite+aiosqlite:///nas.db", "sqlite:///nas.db"),
        ("postgresql://me@host/nas", "postgresql+psycopg://me@host/nas"),
        ("postgresql+psycopg2://me@host/nas", "postgresql+psycopg://me@host/nas"),
        ("postgresql://me@host:5433/nas?sslmode=require", "postgresql+psycopg://me@host:5433/nas?sslmode=require"),
    ],
)
def test_valid_storages(written: str, meant: str) -> None:
    assert parse_storage(written) == make_url(meant)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("", "is not a storage URL"),
        ("nas", "is not a storage URL"),
        ("nas.txt", "is not a storage URL"),
        ("postgresql//me@host/nas", "is not a storage URL"),
        ("postgresql://me@host:port/nas", "is not a storage URL"),
        ("sqlite:/nas.db", "is not a storage URL; write sqlite:///FILE.db"),
        ("mysql://me@host/nas", "mysql is not supported"),
        ("postgres://me@host/nas", "postgres is not supported"),
        ("sqlite://", "must name a file"),
        ("sqlite:///", "must name a file"),
        ("sqlite:///:memory:", "must name a file"),
        ("sqlite:///no/such/folder/nas.db", "does not exist"),
        ("no/such/folder/nas.db", "does not exist"),
        ("sqlite:///.", "is a folder"),
        ("postgresql://me:a@b@host/nas", "write it as %40"),
    ],
)
def test_invalid_storages(written: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        parse_storage(written)
    assert raised.value.argument == "--storage"


@pytest.mark.parametrize(
    "written",
    [
        f"postgresql://me:{SECRET}@host/nas",
        f"postgresql://me:{SECRET}@host:port/nas",
        f"postgresql://me:{SECRET}@[::1/nas",
        f"postgresql:/me:{SECRET}@host/nas",
        f"postgresql//me:{SECRET}@host/nas",
        f"me:{SECRET}@host/nas",
        f"{SECRET}@host/nas",
        f"postgresql://me:with@{SECRET}@host/nas",
        f"postgresql://me:with/{SECRET}@host/nas",
        f"postgresql://host/nas?user=me&password={SECRET}",
        f"postgresql://me@host/nas?sslpassword={SECRET}",
        f"postgresql//host/nas?password={SECRET}",
        f"mysql://me:{SECRET}@host/nas",
        f"mysql://host/nas?password={SECRET}",
        f"sqlite:///no/such/nas.db?password={SECRET}",
    ],
)
def test_a_password_is_never_shown(written: str) -> None:
    try:
        shown = masked(parse_storage(written))
    except InputError as error:
        shown = f"{error} {error.value}"
    assert SECRET not in shown
    assert "nas" in shown


def test_masking_keeps_the_password_in_the_url_itself() -> None:
    url = parse_storage(f"postgresql://me:{SECRET}@host/nas?sslpassword={SECRET}")
    masked(url)
    assert (url.password, url.query["sslpassword"]) == (SECRET, SECRET)


@pytest.mark.parametrize(
    "written",
    [
        f"postgresql://me:{SECRET}@127.0.0.1:1/nas",
        f"postgresql://127.0.0.1:1/nas?user=me&password={SECRET}",
        f"postgresql://me:{SECRET}@127.0.0.1:1/nas?no_such_option=1",
        f"postgresql://me:{SECRET}@no-such-host.invalid/nas",
    ],
)
def test_a_missing_server(written: str) -> None:
    with pytest.raises(InputError, match="cannot be opened") as raised:
        open_engine(parse_storage(written))
    assert SECRET not in str(raised.value)


def test_a_file_that_is_not_a_database() -> None:
    Path("nas.db").write_text("this is not a database, though long enough for a header " * 50)
    with pytest.raises(InputError, match=r"cannot be opened \(file is not a database\)"):
        open_engine(parse_storage("nas.db"))


def test_the_file_of_a_url_is_absolute(tmp_path: Path) -> None:
    assert sqlite_file(parse_storage("nas.db")) == tmp_path / "nas.db"
