"""Optuna's own tests of a storage, over ours: as it is, and behind the cache that a study puts before it."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from optuna.storages import BaseStorage, get_storage
from optuna.testing.pytest_storages import StorageTestCase
from sqlalchemy import event, text
from sqlalchemy.pool import Pool

from budgetnas.searching.study import optuna_storage
from budgetnas.storage.urls import parse_storage

pytestmark = pytest.mark.slow


class TestSharedStorage(StorageTestCase):
    @pytest.fixture(params=["plain", "cached"])
    def storage(self, request: pytest.FixtureRequest, storage_url: str) -> Iterator[BaseStorage]:
        connections: list[Any] = []

        def note(connection: Any, _record: object) -> None:
            connections.append(connection)

        event.listen(Pool, "connect", note)
        storage = optuna_storage(parse_storage(storage_url))
        yield storage if request.param == "plain" else get_storage(storage)
        storage.remove_session()
        storage.engine.dispose()
        event.remove(Pool, "connect", note)
        for connection in connections:  # also of a storage that a test read from a pickle
            connection.close()


def test_a_storage_from_a_pickle_is_as_safe_as_the_first(tmp_path: Path) -> None:
    storage = optuna_storage(parse_storage(f"sqlite:///{tmp_path}/a.db"))
    again = pickle.loads(pickle.dumps(storage))
    with again.engine.connect() as connection:
        assert connection.scalar(text("PRAGMA journal_mode")) == "wal"
        assert connection.connection.dbapi_connection.in_transaction
    for opened in (storage, again):
        opened.engine.dispose()
