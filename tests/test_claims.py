"""A claim of a training that ends elsewhere while the claim looks for it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event

from budgetnas.architecture import Architecture
from budgetnas.data.identity import DataIdentity
from budgetnas.runs.recording import RunRequest, claim_run
from budgetnas.space.candidates import Candidate
from budgetnas.space.recipe import Recipe
from budgetnas.storage import Records, Role, State
from budgetnas.storage.engine import open_engine
from budgetnas.storage.leases import release, take_lease
from budgetnas.storage.urls import parse_storage
from budgetnas.training import RuntimeConfig

CANDIDATE = Candidate(
    Architecture((1,), (8,), (1,), stem_width=8, in_channels=1, size=8),
    Recipe(optimizer="sgd", learning_rate=0.1, epochs=2, t_max=2, batch=64),
)
IDENTITY = DataIdentity(name="digits", content_hash="ab", subset=None, subset_eval=None, split_seed=0, resolution=8)
CPU = RuntimeConfig("cpu", "float32", threads=1)
STUDY = "one"


@pytest.fixture
def elsewhere(storage_url: str, records: Records) -> Iterator[Records]:
    """The same storage as another process sees it."""
    engine = open_engine(parse_storage(storage_url))
    yield Records(engine)
    engine.dispose()


def request(trial: int, seed: int) -> RunRequest:
    return RunRequest(CANDIDATE, seed, Role.SEARCH, study=STUDY, trial=trial)


@contextmanager
def before_transaction(records: Records, number: int, happens: Callable[[], None]) -> Iterator[None]:
    """Let something happen just before the transaction of that number, counted from 0, that the block begins."""
    transactions = itertools.count()

    def listen(*_: Any) -> None:
        if next(transactions) == number:
            happens()

    event.listen(records.engine, "checkout", listen)
    yield
    event.remove(records.engine, "checkout", listen)


@pytest.mark.parametrize("state", [State.COMPLETE, State.PRUNED, State.INTERRUPTED, State.FAILED])
@pytest.mark.parametrize("number", range(6))
def test_a_run_that_ends_during_a_claim_is_not_trained_twice(
    records: Records, elsewhere: Records, state: State, number: int
) -> None:
    there, here = take_lease(elsewhere, STUDY), take_lease(records, STUDY)
    run = claim_run(request(1, number), IDENTITY, CPU, elsewhere, there).run

    def end() -> None:
        elsewhere.finish_run(run, state)
        release(elsewhere, there.owner)

    with before_transaction(records, number, end):
        claimed = claim_run(request(2, number), IDENTITY, CPU, records, here)
    found = records.run(run)
    if claimed.run == run:
        assert (claimed.known is None) == (found.state is State.RUNNING and found.trial == 2)
    else:
        assert found.state is State.FAILED
    assert len(records.runs()) == 1 + (claimed.run != run)
