"""A final whose runs several workers train."""

from __future__ import annotations

import math
from typing import Final

from budgetnas.data.arrays import ImageArrays
from budgetnas.data.request import absolute_place
from budgetnas.errors import InputError, SearchFailedError, plural
from budgetnas.experiments.final import FinalCallbacks, Together, finish, help_finish
from budgetnas.experiments.final_plan import FinishRequest
from budgetnas.experiments.final_results import FinalResult
from budgetnas.runs.interrupts import Stopper
from budgetnas.runs.reopen import DataPlace, study_specification
from budgetnas.searching.callbacks import MessageCallbacks, SearchCallbacks
from budgetnas.searching.loop import reporting_outcome
from budgetnas.searching.workers.pools import WorkerPool
from budgetnas.searching.workers.supervisor import run_pool
from budgetnas.searching.workers.worker import WorkerRequest, WorkerResult, chosen_runtime
from budgetnas.storage import Records, Role, Run, State
from budgetnas.storage.opening import open_records
from budgetnas.storage.urls import for_other_processes, parse_storage
from budgetnas.training import Runtime

_ENDED: Final = frozenset({State.COMPLETE, State.FAILED})


def finish_with(
    pool: WorkerPool | None,  # None to train in this process
    request: FinishRequest,
    records: Records,
    runtime: Runtime,  # of this process, which evaluates on the test split
    precision: str,  # ``--precision`` for the workers
    stopper: Stopper,
    callbacks: FinalCallbacks,
) -> FinalResult:
    """Run or resume a final as `finish` does; the workers of a pool train its runs.

    Raises:
        InputError: If the study's images are arrays, which other processes cannot get.
    """
    if pool is None:
        return finish(request, records, runtime, stopper, callbacks)
    data = request.place.data
    if isinstance(data, ImageArrays):
        rule = "arrays cannot be sent to other processes"
        raise InputError("--workers", pool.workers, rule, "leave it out, or write them as a folder of images")
    place, data_dir = absolute_place(data, request.place.data_dir)

    def train(final: int) -> None:
        worker = WorkerRequest(
            storage=for_other_processes(records.engine.url),
            study=request.study,
            data=place,
            data_dir=data_dir,
            precision=precision,
            threads=pool.threads,
            planned=True,
            timeout=stopper.seconds_left(),
            final=final,
        )
        callbacks.on_message(f"{plural(pool.workers, 'worker')} train its runs")
        run_pool(pool, worker, _WatchedFinal(records, request.study, callbacks), stopper, callbacks)
        reason = pool.failure()
        if reason is not None:
            raise SearchFailedError(f"no worker is left: {reason}")

    return finish(request, records, runtime, stopper, callbacks, Together(pool.shares, train))


def run_final_worker(request: WorkerRequest, stopper: Stopper, callbacks: SearchCallbacks) -> WorkerResult:
    """Train runs of a study's final until none is missing.

    Raises:
        InputError: If there is no such study, or its data differ here.
    """
    assert request.study is not None, "a worker of the queue has no study of its own"
    records = open_records(parse_storage(request.storage), must_exist=True)
    runtime = chosen_runtime(request, callbacks)
    final = FinishRequest(request.study, DataPlace(request.data, request.data_dir))
    with reporting_outcome(callbacks) as outcome, stopper.listening():
        help_finish(final, records, runtime, stopper, _FinalMessages(callbacks.on_message), request.final)
        outcome.finished = True
    return WorkerResult(records, outcome)


class _WatchedFinal:
    """Polls the storage for the runs of a study's finals, and reports each that ends."""

    def __init__(self, records: Records, study: str, callbacks: FinalCallbacks) -> None:
        self._records, self._study, self._callbacks = records, study, callbacks
        self._measure = study_specification(records, study).measure
        self._known = {run.id for run in self._runs() if run.state in _ENDED}
        self._status, self._begun = "", len(self._known)

    def ended(self) -> int:
        """Return the number of runs that had ended at the last refresh."""
        return len(self._known)

    def is_done(self) -> bool:
        """Return False: the workers know when nothing is left, and end."""
        return False

    def refresh(self) -> None:
        """Read the runs, and report those that ended since the last refresh."""
        runs = self._runs()
        for run in runs:
            if run.state in _ENDED and run.id not in self._known:
                self._known.add(run.id)
                self._callbacks.on_worker_run(self._describe(run))
        running = [
            f"epoch {min(run.epochs_done + 1, run.recipe.epochs)}/{run.recipe.epochs}"
            for run in runs
            if run.state is State.RUNNING
        ]
        status = f"{plural(len(self._known) - self._begun, 'run')} trained; {', '.join(running)}"
        if running and status != self._status:
            self._status = status
            self._callbacks.on_progress(status)

    def _runs(self) -> tuple[Run, ...]:
        return self._records.runs(study=self._study, role=Role.FINAL)

    def _describe(self, run: Run) -> str:
        name = f"{run.architecture.describe()}, seed {run.seed}"
        if run.state is State.FAILED:
            return f"{name}: failed: {run.reason}"
        accuracy = self._measure.of(self._records.curve(run.id)[-1])
        trained = f"trained for {plural(run.epochs_done, 'epoch')}"
        return f"{name}: {trained}" + ("" if math.isnan(accuracy) else f", {accuracy:.2%} on validation")


class _FinalMessages(MessageCallbacks, FinalCallbacks):
    """Passes messages on, but not that other workers are training too."""

    def on_elsewhere(self, run: int, *, waiting: bool) -> None:
        """Ignore it: the search shows the runs of all workers."""
