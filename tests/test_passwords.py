"""No password of a storage is shown or kept."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from conftest import PostgresServer
from forked import Forked
from secrets_and_names import SECRET, SECRETS, in_files, in_options, in_user_part, shown
from small import run, start, study_file
from sqlalchemy import MetaData, create_engine, select
from sqlalchemy.engine import make_url

from budgetnas.errors import hide_passwords
from budgetnas.storage import tables


def in_tables(database: str) -> int:
    """Look at every value of every table, Optuna's too; return how many rows there are."""
    engine = create_engine(database)
    found = MetaData()
    found.reflect(engine)
    rows = 0
    with engine.connect() as connection:
        for table in found.sorted_tables:
            for row in connection.execute(select(table)):
                rows += 1
                shown(*map(str, row))
    engine.dispose()
    return rows


@pytest.mark.slow
def test_no_command_shows_or_keeps_the_password_of_a_storage(postgres_database: str, tmp_path: Path) -> None:
    url, options = in_user_part(postgres_database), in_options(postgres_database)
    path = study_file(tmp_path, trials="2", study='"s"')
    commands: list[tuple[int, tuple[str, ...]]] = [
        (0, ("search", path, f"--storage={url}", "--timeout", "0.01s")),
        (0, ("search", path, "--storage", options, "--timeout", "0.01s")),
        (0, ("search", path, "--storage", url)),
        (2, ("search", path, "--storage", options, "--epochs", "3")),
        (0, ("show", "s", "--storage", url)),
        (0, ("show", "s", "--storage", options, "--json")),
        (0, ("studies", "--storage", options)),
        (0, ("report", "s", "--storage", options)),
        (0, ("finish", "s", f"--storage={options}", "--timeout", "0.01s")),
        (0, ("export", "s", "--run", "1", "--storage", url)),
        (0, ("compare", "s", f"--storage={url}", "--timeout", "0.01s")),
        (0, ("doctor", "--study", "s", "--storage", options)),
        (2, ("show", url, "--storage", url)),
        (2, ("search", options)),
    ]
    resumed = 0
    for code, arguments in commands:
        done = run(tmp_path, *arguments)
        assert done.returncode == code, (arguments, done.stderr)
        assert "Traceback" not in done.stderr
        shown(done.stdout, done.stderr)
        resumed += "Resume with:" in done.stderr
    assert resumed == 4, "the command that resumes was shown"
    in_files(tmp_path)
    assert in_tables(postgres_database) > 50


@pytest.mark.parametrize(
    ("command", "way", "url"),
    [
        ("search", "option", f"postgresql://me:{SECRETS[1]}@127.0.0.1:1/nas?no_such_option=1"),
        ("search", "environment", f"postgresql://me:{SECRETS[1]}@no-such-host.invalid/nas"),
        ("search", "study file", f"postgresql://127.0.0.1:1/nas?user=me&password={SECRETS[1]}"),
        ("show", "option", f"postgresql://127.0.0.1:1/nas?user=me&password={SECRETS[1]}"),
        ("show", "environment", f"postgresql://me:{SECRET}@127.0.0.1:1/nas"),
        ("doctor", "environment", f"postgresql://me:{SECRETS[1]}@no-such-host.invalid/nas"),
    ],
)
def test_no_failing_command_shows_the_password_of_a_storage(tmp_path: Path, command: str, way: str, url: str) -> None:
    changes = {"storage": json.dumps(url)} if way == "study file" else {}
    option = ("--storage", url) if way == "option" else ()
    extra = {"BUDGETNAS_STORAGE": url} if way == "environment" else {}
    of_command = {"search": (study_file(tmp_path, **changes),), "show": ("s",), "doctor": ("--data", "digits")}
    done = run(tmp_path, command, *of_command[command], *option, **extra)
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    shown(done.stdout, done.stderr)
    in_files(tmp_path)


def test_a_lost_server_is_reported_without_the_password(
    postgres_server: PostgresServer, postgres_database: str, tmp_path: Path
) -> None:
    """The lost connection's error is the database's own; it comes in the middle of a search."""
    path = study_file(tmp_path, trials="500", study='"s"')
    where = ("--storage", in_user_part(postgres_database))
    process = start(tmp_path, "search", path, *where, BUDGETNAS_PATIENCE="3s")
    engine = create_engine(postgres_server.url, isolation_level="AUTOCOMMIT")
    name = make_url(postgres_database).database
    try:
        wait_for_a_training(postgres_database, process)
        with engine.connect() as connection:
            connection.exec_driver_sql(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false")
            others = f"datname = '{name}' AND pid <> pg_backend_pid()"
            connection.exec_driver_sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}")
        out, err = process.communicate(timeout=120)
        with engine.connect() as connection:
            connection.exec_driver_sql(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS true")
    finally:
        process.kill()
        process.communicate()
        engine.dispose()
    assert process.returncode != 0
    assert "storage" in err.splitlines()[-1] or "Resume with" in err, err
    shown(out, err)


def wait_for_a_training(database: str, process: Forked) -> None:
    engine = create_engine(database)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        with engine.connect() as connection:
            if connection.dialect.has_table(connection, "epochs") and connection.execute(select(tables.epochs)).first():
                break
        time.sleep(0.2)
    engine.dispose()
    assert process.poll() is None, process.communicate()


@pytest.mark.parametrize(
    ("message", "hidden"),
    [
        ("STUDY 'postgresql://me:x@y@host/d'", "STUDY 'postgresql://me:***@host/d'"),
        ("at postgresql+psycopg://:x@host/d", "at postgresql+psycopg://:***@host/d"),
        ("d?sslpassword=x&b=1", "d?sslpassword=...&b=1"),
        ("see http://127.0.0.1:8080/ and me@host", "see http://127.0.0.1:8080/ and me@host"),
    ],
)
def test_passwords_in_messages_are_hidden(message: str, hidden: str) -> None:
    assert hide_passwords(message) == hidden
