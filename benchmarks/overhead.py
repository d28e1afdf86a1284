"""What a search takes outside training: for each reported epoch, for each trial, and until its first trial.

The search is the real one on a real SQLite file: slots, sampler, gate, records and Optuna's storage. Only the training
is replaced, by one that takes no time and reports epochs; an architecture's multiply-accumulates stand in for its
accuracy.
"""

from __future__ import annotations

import cProfile
import inspect
import json
import os
import pstats
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

import optuna
import torch
import typer
from sqlalchemy import Engine, event

from benchmarks.options import BudgetOption, SamplerOption, SeedOption
from benchmarks.running import run
from budgetnas.architecture import Architecture, count
from budgetnas.architecture.budget import Budget, parse_budget
from budgetnas.data import DataIdentity
from budgetnas.experiments.bench.hardware import machine
from budgetnas.metrics import Epoch
from budgetnas.runs.interrupts import Stopper
from budgetnas.runs.recording import RunImages, claim_run
from budgetnas.samplers.attributes import describe
from budgetnas.samplers.constraint_filter import ConstraintFilter
from budgetnas.samplers.named import DEFAULT_SAMPLER, check_sampler
from budgetnas.searching.callbacks import SearchCallbacks
from budgetnas.searching.loop import SearchTask, search
from budgetnas.searching.study import OpenStudy, open_study, recover_stale_trials
from budgetnas.searching.trial import suggest_candidate, tally
from budgetnas.space.recipe import Normalisation, RecipeSpace
from budgetnas.space.search_space import InputShape, SearchSpace
from budgetnas.space.specification import StudySpecification
from budgetnas.storage import Records
from budgetnas.storage.leases import take_slot
from budgetnas.storage.opening import open_records
from budgetnas.storage.urls import parse_storage
from budgetnas.training import Callbacks, Checkpointer, RuntimeConfig, Task
from budgetnas.training.device import DeviceImages
from budgetnas.training.network import ResNet, build

EPOCH_LIMIT_MS: Final = 5.0
TRIAL_LIMIT_MS: Final = 250.0
_LAST: Final = 100
_PROFILED: Final = 50
_TYPICAL_TRIAL_SECONDS: Final = 60.0
_STARTS: Final = 5
_IDENTITY: Final = DataIdentity(
    name="overhead", content_hash="0" * 64, subset=None, subset_eval=None, split_seed=0, resolution=32
)
_INPUTS: Final = InputShape(in_channels=3, size=32, classes=10)
_SPACE: Final = SearchSpace()
_PARTS: Final[dict[str, Callable[..., Any]]] = {
    "proposal: sampler and gate": ConstraintFilter.sample_relative,
    "  in it, rejections written": Records.reject,
    "parameters: proposal and writing": suggest_candidate,
    "the trial told to Optuna's storage": describe,
    "run claimed and begun": claim_run,
    "run ended": Records.finish_run,
    "tally": tally,
    "orphans looked for": recover_stale_trials,
    "slot taken": take_slot,
    "Optuna's ask": optuna.Study.ask,
}


@dataclass(frozen=True, slots=True)
class _Instant:
    """Seconds by the clock and of this process's core time."""

    clock: float
    core: float

    @classmethod
    def now(cls) -> _Instant:
        return cls(time.perf_counter(), time.process_time())

    def since(self, earlier: _Instant) -> _Instant:
        return _Instant(self.clock - earlier.clock, self.core - earlier.core)


@dataclass(frozen=True, slots=True)
class Spread:
    """Times of one kind, in milliseconds: by the clock, and of one core's time, which others' work does not change."""

    n: int
    median_ms: float
    p95_ms: float
    max_ms: float
    core_median_ms: float
    core_p95_ms: float

    @classmethod
    def of(cls, intervals: Sequence[_Instant]) -> Spread:
        """Return the spread of some intervals."""
        clock = sorted(1000 * one.clock for one in intervals)
        core = sorted(1000 * one.core for one in intervals)
        p95 = int(0.95 * (len(clock) - 1))
        return cls(len(clock), statistics.median(clock), clock[p95], clock[-1], statistics.median(core), core[p95])

    def __str__(self) -> str:
        return (
            f"median {self.median_ms:.1f}, p95 {self.p95_ms:.1f}, max {self.max_ms:.1f} ms (n = {self.n}); "
            f"of a core's time median {self.core_median_ms:.1f}, p95 {self.core_p95_ms:.1f} ms"
        )


@dataclass(frozen=True, slots=True)
class Overhead:
    """What was measured of one search."""

    budget: int
    sampler: str
    seed: int
    epoch: Spread
    trial: Spread
    last_trials: Spread
    share_of_a_trial_of_60_s: float
    rejected: int
    duplicates: int
    statements_a_trial: float
    transactions_a_trial: float
    parts_ms: dict[str, float]


@dataclass(slots=True)
class _Stopwatch:
    """A training that takes no time; notes when it began and ended, and what each report of an epoch took."""

    network: ResNet
    began: list[_Instant] = field(default_factory=list)
    ended: list[_Instant] = field(default_factory=list)
    epochs: list[_Instant] = field(default_factory=list)

    def train(self, task: Task, runtime: RuntimeConfig, callbacks: Callbacks, keeper: Checkpointer) -> ResNet:
        self.began.append(_Instant.now())
        accuracy = _stand_in(task.architecture)
        for number in range(1, task.recipe.epochs + 1):
            epoch = Epoch(number, 1.0, accuracy, 1.0, accuracy, task.recipe.learning_rate, 0.0)
            started = _Instant.now()
            callbacks.on_epoch_end(epoch)
            self.epochs.append(_Instant.now().since(started))
        self.ended.append(_Instant.now())
        return self.network

    def between(self, started: _Instant) -> list[_Instant]:
        """Return the time before each training and after the one before it: all that is not training."""
        return [began.since(ended) for began, ended in zip(self.began, [started, *self.ended], strict=False)]


@dataclass(slots=True)
class _Statements:
    """Counts what an engine is asked."""

    statements: int = 0
    transactions: int = 0

    def listen(self, engine: Engine) -> None:
        def statement(*_: object) -> None:
            self.statements += 1

        def begin(_: object) -> None:
            self.transactions += 1

        event.listen(engine, "before_cursor_execute", statement)
        event.listen(engine, "begin", begin)


def measure(
    trials: Annotated[int, typer.Option(help="Trials of the search.", min=1)] = 1000,
    epochs: Annotated[int, typer.Option(help="Epochs that each reports.", min=1)] = 5,
    budget: BudgetOption = "5e6",
    sampler: SamplerOption = DEFAULT_SAMPLER,
    seed: SeedOption = 0,
    start: Annotated[bool, typer.Option("--start", help="Measure process start to first trial instead.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Run a search whose trainings take no time, and print what it takes all the same."""
    if start:
        seconds = [_start_to_first_trial() for _ in range(_STARTS)]
        typer.echo(json.dumps({"seconds": seconds, "machine": machine()}) if as_json else _start_lines(seconds))
        return
    check_sampler(sampler)
    measured = _search(trials, epochs, Budget(parse_budget(budget)), sampler, seed)
    typer.echo(json.dumps(asdict(measured) | {"machine": machine()}) if as_json else _lines(measured))


def _search(trials: int, epochs: int, budget: Budget, sampler: str, seed: int) -> Overhead:
    specification = StudySpecification(
        max_params=budget.max_params,
        space=_SPACE,
        recipes=RecipeSpace(epochs=epochs),
        data=_IDENTITY,
        inputs=_INPUTS,
    )
    with tempfile.TemporaryDirectory() as folder:
        url = parse_storage(f"sqlite:///{folder}/overhead.db")
        opened = open_study(url, open_records(url), "overhead", specification)
        with closing(opened):
            return _run(opened, trials, sampler, seed)


def _run(opened: OpenStudy, trials: int, sampler: str, seed: int) -> Overhead:
    watch = _Stopwatch(build(_SPACE.smallest(_INPUTS)))
    none = DeviceImages(torch.zeros(0, 3, 32, 32, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64))
    images = RunImages(_IDENTITY, none, none, Normalisation(mean=(0.0,) * 3, std=(1.0,) * 3))
    runtime = RuntimeConfig(device="cpu", precision="float32", threads=1)
    statements = _Statements()
    for engine in (opened.records.engine, opened.storage.engine):
        statements.listen(engine)

    def search_until(runs: int) -> None:
        task = SearchTask(runs, images, runtime, sampler, seed, trainer=watch.train)
        search(opened, task, Stopper(None), SearchCallbacks())

    started = _Instant.now()
    search_until(trials)
    between = watch.between(started)
    statements_made, transactions_made = statements.statements, statements.transactions
    rejected, duplicates = opened.records.rejection_counts(opened.name)
    spread = Spread.of(between)
    epoch = Spread.of(watch.epochs)
    profile = cProfile.Profile()
    profile.runcall(search_until, trials + _PROFILED)
    return Overhead(
        budget=opened.specification.max_params,
        sampler=sampler,
        seed=seed,
        epoch=epoch,
        trial=spread,
        last_trials=Spread.of(between[-_LAST:]),
        share_of_a_trial_of_60_s=spread.p95_ms / 1000 / _TYPICAL_TRIAL_SECONDS,
        rejected=rejected,
        duplicates=duplicates,
        statements_a_trial=statements_made / trials,
        transactions_a_trial=transactions_made / trials,
        parts_ms=_parts(profile),
    )


def _parts(profile: cProfile.Profile) -> dict[str, float]:
    times: dict[tuple[str, int, str], tuple[Any, ...]] = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    parts = {}
    for name, function in _PARTS.items():
        code = inspect.unwrap(function).__code__
        found = times.get((code.co_filename, code.co_firstlineno, code.co_name))
        parts[name] = 0.0 if found is None else 1000 * float(found[3]) / _PROFILED
    return parts


def _stand_in(architecture: Architecture) -> float:
    macs = count(architecture).macs
    return macs / (macs + 1e8)


def _lines(measured: Overhead) -> str:
    lines = [
        f"search under {Budget(measured.budget)} with {measured.sampler}, seed {measured.seed}, SQLite; training takes "
        f"no time; {measured.rejected} proposals rejected, {measured.duplicates} duplicates",
        f"each epoch reported: {measured.epoch}; allowed: p95 {EPOCH_LIMIT_MS:.0f} ms",
        f"each trial beside these: {measured.trial}; allowed: p95 {TRIAL_LIMIT_MS:.0f} ms",
        f"the last of them: {measured.last_trials}",
        f"of a trial of {_TYPICAL_TRIAL_SECONDS:.0f} s, the p95 is {measured.share_of_a_trial_of_60_s:.2%}",
        f"{measured.statements_a_trial:.1f} statements in {measured.transactions_a_trial:.1f} transactions a trial",
        f"where the time goes, ms a trial in {_PROFILED} more trials under a profiler, which slows them down:",
        *(f"  {name}: {milliseconds:.1f}" for name, milliseconds in measured.parts_ms.items()),
        machine(),
    ]
    return "\n".join(lines)


def _start_to_first_trial() -> float:
    """Start the shipped search of the bundled digits, and stop it once its first trial is announced."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "budgetnas", "search", "digits-demo", "--trials", "1"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("BUDGETNAS_")}
        started = time.perf_counter()
        with subprocess.Popen(
            [*command, "--storage", f"sqlite:///{Path(folder) / 'start.db'}"],
            env=environment,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        ) as process:
            assert process.stderr is not None
            told = []
            for line in process.stderr:
                told.append(line)
                if line.startswith("trial 0"):
                    seconds = time.perf_counter() - started
                    process.send_signal(signal.SIGTERM)
                    process.stderr.read()
                    return seconds
    raise RuntimeError("the search ended before its first trial: " + "".join(told))


def _start_lines(seconds: Sequence[float]) -> str:
    return (
        "process start to first trial of the shipped study digits-demo: "
        f"median {statistics.median(seconds):.1f} s, {min(seconds):.1f} to {max(seconds):.1f} s (n = {len(seconds)})\n"
        f"{machine()}"
    )


if __name__ == "__main__":
    run(measure)
