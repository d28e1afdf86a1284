"""Finals of small studies, and a listener that stops them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from quiet import Quiet
from small import run, study_file
from sqlalchemy import select

from budgetnas.errors import Interrupted
from budgetnas.experiments.final import FinalTraining, LongTrainings, finish
from budgetnas.experiments.final_plan import FinishRequest
from budgetnas.experiments.final_results import (
    FinalResult,
)
from budgetnas.runs.interrupts import Stopper
from budgetnas.runs.reopen import DataPlace
from budgetnas.space.specification import ChoiceProtocol
from budgetnas.storage import Records, Role, Run, tables
from budgetnas.storage.opening import open_records
from budgetnas.storage.urls import parse_storage
from budgetnas.training import runtime_rules

PROTOCOL = ChoiceProtocol(finalists=2, seeds=2)


@dataclass
class Listener(Quiet):
    """Keeps its calls, and stops the final after a number of runs."""

    stop_after: int = 1_000
    trainings: list[FinalTraining] = field(default_factory=list)
    resumed: list[bool] = field(default_factory=list)
    long: list[LongTrainings] = field(default_factory=list)

    def on_long_trainings(self, planned: LongTrainings) -> None:
        self.long.append(planned)

    def on_final_start(self, result: FinalResult, *, resumed: bool) -> None:
        self.resumed.append(resumed)

    def on_final_run(self, training: FinalTraining) -> None:
        if len(self.trainings) == self.stop_after:
            raise Interrupted
        self.trainings.append(training)


def searched(folder: Path, *arguments: str, **changes: str) -> Path:
    result = run(folder, "search", study_file(folder, **{"study": '"s"', **changes}), *arguments)
    assert result.returncode == 0, result.stderr
    return folder / "budgetnas.db"


@contextmanager
def opened(database: Path) -> Iterator[Records]:
    with closing(open_records(parse_storage(f"sqlite:///{database}"), must_exist=True)) as records:
        yield records


def run_final(
    records: Records,
    listener: Listener | None = None,
    protocol: ChoiceProtocol | None = PROTOCOL,
    final_epochs: int | None = None,
    precision: str = "float32",
) -> FinalResult:
    request = FinishRequest("s", DataPlace(), protocol, final_epochs)
    return finish(request, records, runtime_rules("cpu", precision), Stopper(), listener or Listener())


def readings(records: Records) -> list[tuple[int | None, int, float]]:
    one = tables.test_readings.c
    with records.engine.connect() as connection:
        return [tuple(row) for row in connection.execute(select(one.final, one.run, one.at))]


def finals(records: Records) -> list[Run]:
    return list(records.runs(study="s", role=Role.FINAL))


def copied(database: Path, folder: Path) -> Path:
    """A copy of a database in another folder."""
    copy = folder / "budgetnas.db"
    with opened(database) as records, records.engine.connect() as connection:
        connection.exec_driver_sql("COMMIT")  # VACUUM is not for transactions
        connection.exec_driver_sql("VACUUM INTO ?", (str(copy),))
        connection.exec_driver_sql("BEGIN")
    return copy
