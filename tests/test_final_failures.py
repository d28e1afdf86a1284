"""Finals with failed runs, several plans, and other processes that were quicker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_finals import Listener, copied, finals, opened, readings, run_final, searched

from budgetnas.errors import Cancelled, Interrupted
from budgetnas.experiments.final import FinalTraining
from budgetnas.experiments.final_plan import runs_left
from budgetnas.experiments.final_results import (
    FIRST_VALIDATION_SEED,
    Entrant,
    FinalResult,
    final_result,
)
from budgetnas.runs.reopen import study_specification
from budgetnas.space.specification import ChoiceProtocol
from budgetnas.storage import Records, Role, RunKey, State


@pytest.fixture(scope="module")
def searched_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return searched(tmp_path_factory.mktemp("searched"))


@pytest.fixture
def database(searched_once: Path, tmp_path: Path) -> Path:
    return copied(searched_once, tmp_path)


def fails(records: Records, entrant: Entrant, seed: int) -> None:
    """Record a failed run of a final, as another process does."""
    data = study_specification(records, "s").data
    number = records.start_run(
        key=RunKey(*entrant.run.candidate.key, data.digest(), seed, Role.FINAL),
        architecture=entrant.run.architecture,
        recipe=entrant.run.recipe,
        data=data.model_dump_json(),
        environment="{}",
        study="s",
    )
    records.finish_run(number, State.FAILED, "the loss is not finite")


def begun(records: Records, **options: Any) -> FinalResult:
    """A final in which nothing is trained yet."""
    with pytest.raises(Interrupted):
        run_final(records, Listener(0), **options)
    result = final_result(records, "s")
    assert result is not None
    return result


def test_a_run_that_failed_in_another_process_is_not_tried_again(database: Path) -> None:
    with opened(database) as records:
        first, second = begun(records).entrants
        fails(records, first, FIRST_VALIDATION_SEED)
        left = runs_left(records, "s")
        assert (left.missing, left.in_training) == (2, 0), "the other seed of the failed entrant is not trained"
        listener = Listener()
        result = run_final(records, listener)
        assert f"{first.name} is out of the final: its run with seed 1000 failed: the loss is not finite" in (
            listener.notices
        )
        assert result.winner is not None and result.winner.run == second.run and result.readings == 1
        runs = [run for run in finals(records) if run.architecture == first.run.architecture]
        assert [run.state for run in runs] == [State.FAILED]


def test_if_every_entrant_failed_a_later_call_tries_them_again(database: Path) -> None:
    with opened(database) as records:
        for entrant in begun(records).entrants:
            fails(records, entrant, FIRST_VALIDATION_SEED)
        result = run_final(records)
        assert result.winner is not None and all(len(entrant.validation) == 2 for entrant in result.entrants)


def test_the_first_name_of_a_winner_counts(database: Path) -> None:
    with opened(database) as records:
        first, second = begun(records).entrants
        [final] = records.finals("s")
        for entrant in (second, first):
            records.name_winner(final.id, entrant.run.id)
        assert records.finals("s")[0].winner == second.run.id


def test_a_final_that_another_process_ran_meanwhile_is_used(database: Path) -> None:
    with opened(database) as records:
        run_final(records)
        [final] = records.finals("s")
        assert final.read_at is not None
        assert records.start_final("s", final.plan, final.read_at - 1).id == final.id
        assert records.start_final("s", final.plan, final.read_at + 1).id != final.id


def test_a_finished_final_is_not_read_again_while_a_longer_one_is_unfinished(database: Path) -> None:
    with opened(database) as records:
        first = run_final(records, final_epochs=2)
        begun(records, final_epochs=3)
        assert run_final(records, final_epochs=2) == first
        assert len(records.finals("s")) == 2 and len(readings(records)) == 2


def test_other_numbers_make_another_final_if_one_is_unfinished(database: Path) -> None:
    with opened(database) as records:
        begun(records)
        other = ChoiceProtocol(finalists=1, seeds=3)
        result = run_final(records, protocol=other)
        assert result.protocol == other and result.readings == 1


def test_a_cancelled_final_trains_and_reads_nothing_more(database: Path) -> None:
    class Cancelling(Listener):
        def on_final_run(self, training: FinalTraining) -> None:
            super().on_final_run(training)
            if len(self.trainings) == 2:
                with opened(database) as other:
                    other.cancel("s")

    listener = Cancelling()
    with opened(database) as records:
        with pytest.raises(Cancelled):
            run_final(records, listener)
        assert len(listener.trainings) == 2 and not readings(records)
