"""Replays: the source report's runs retrained by its protocol, for comparison with its printed figures."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, SupportsIndex

from budgetnas.architecture import Architecture, count, named
from budgetnas.data import Data, DataRequest, load_data
from budgetnas.data.test_split import load_test
from budgetnas.errors import BudgetnasError, InputError, RunFailedError, check_seed
from budgetnas.experiments.published import RecordedRun, for_channels, recorded_run, recorded_runs
from budgetnas.experiments.replay_results import ReplayResult, incomparable, marked, replay_result
from budgetnas.runs.interrupts import Stopper
from budgetnas.runs.recording import RunImages, RunRequest, record_training
from budgetnas.runs.timing import time_steps
from budgetnas.space.candidates import Candidate
from budgetnas.space.recipe import Normalisation, Recipe
from budgetnas.storage import Records, Role, Run, State
from budgetnas.training import Callbacks, Runtime
from budgetnas.training.device import to_device

TEST_REASON: Final = "replay: the report's protocol evaluates on the test split after every epoch"


@dataclass(frozen=True, slots=True)
class ReplayRequest:
    """What to replay, and what to change about it."""

    names: tuple[str, ...]  # recorded runs; empty for all of them
    data: DataRequest  # the data; the report's protocol trains on all training images of CIFAR-10
    epochs: int | None = None  # number of epochs, or None for the report's
    # Length of the cosine schedule in epochs, or None for the report's, scaled with the epochs.
    t_max: int | None = None
    seed: int = 0  # seed of initial weights, order and augmentation

    def runs(self) -> tuple[RecordedRun, ...]:
        """Return the runs to replay.

        Raises:
            InputError: If a name or number is invalid.
        """
        check_seed(self.seed)
        for argument, value in (("--epochs", self.epochs), ("--t-max", self.t_max)):
            if value is not None and not (isinstance(value, SupportsIndex) and 1 <= value <= 10_000):
                raise InputError(argument, value, "must be a whole number from 1 to 10,000")
        return tuple(recorded_run(name) for name in self.names) or tuple(recorded_runs().values())


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    """The next run to replay."""

    run: RecordedRun
    recipe: Recipe  # its recipe, with the changes of the request
    why_not: tuple[str, ...]  # why its figures are not comparable with the printed ones; empty if they are
    seconds: float | None  # estimated time, or None if memory ran out


class ReplayCallbacks(Callbacks):
    """Hooks of replays."""

    def on_replay_start(self, plan: ReplayPlan) -> None:
        """Called before each run that is trained."""

    def on_replay_end(self, result: ReplayResult, *, known: bool) -> None:
        """Called after each run; `known` if an earlier call trained it."""


@dataclass(frozen=True, slots=True)
class ReplayOutcome:
    """The end of a replay call."""

    results: tuple[ReplayResult, ...]  # the complete replays, trained now or before
    failed: tuple[str, ...]
    records: Records


def replay(
    request: ReplayRequest,
    runtime: Runtime,
    open_storage: Callable[[], Records],
    stopper: Stopper,
    callbacks: ReplayCallbacks,
) -> ReplayOutcome:
    """Replay the runs in turn; complete replays are not repeated.

    A run that fails does not stop the others. The storage is opened after all other checks.

    Raises:
        InputError: If the request is invalid.
        BudgetnasError: If a count differs from the printed one.
        Interrupted: If a stop was requested. Complete runs are recorded; the same call resumes the interrupted run.
    """
    runs = request.runs()
    for run in runs:
        check_count(run)
    callbacks.on_progress("loading data")
    data = load_data(request.data)
    for text in data.notices:
        callbacks.on_message(text)
    images = _images(data, request.data, runs[0].recipe.normalisation, runtime)
    replayer = _Replayer(request, data, images, runtime, open_storage(), stopper, callbacks)
    results, failed = [], []
    for run in runs:
        stopper.check()
        try:
            results.append(replayer.replay(run))
        except RunFailedError as error:
            why_not = incomparable(run, recipe_for(run, request.epochs, request.t_max), data.identity)
            callbacks.on_message(f"{marked(run.name, why_not)} failed: {error.reason}")
            failed.append(run.name)
    return ReplayOutcome(tuple(results), tuple(failed), replayer.records)


def check_count(run: RecordedRun) -> int:
    """Check the parameters of a recorded run's network against the printed count, and return them.

    Raises:
        BudgetnasError: If they differ.
    """
    params = count(named(run.network)).params
    if params != run.params:
        raise BudgetnasError(f"{run.name}: counted {params:,} parameters, the report has {run.params:,}")
    return params


def recipe_for(run: RecordedRun, epochs: int | None, t_max: int | None) -> Recipe:
    """Return a run's recipe with `epochs` and `t_max`; without a `t_max` the cosine is scaled with the epochs."""
    recipe = run.recipe
    asked = recipe.epochs if epochs is None else epochs
    scaled = max(1, round(recipe.t_max * asked / recipe.epochs))
    return recipe.model_copy(update={"epochs": asked, "t_max": scaled if t_max is None else t_max})


def recorded_results(records: Records) -> tuple[ReplayResult, ...]:
    """Return the result of every complete replay in a storage, oldest first."""
    runs = recorded_runs()
    return tuple(
        replay_result(runs[record.label], record, records)
        for record in records.runs(role=Role.REPLAY)
        if record.state is State.COMPLETE and record.label in runs
    )


@dataclass(frozen=True, slots=True)
class _Replayer:
    request: ReplayRequest
    data: Data
    images: RunImages
    runtime: Runtime
    records: Records
    stopper: Stopper
    callbacks: ReplayCallbacks

    def replay(self, run: RecordedRun) -> ReplayResult:
        recipe = recipe_for(run, self.request.epochs, self.request.t_max)
        why_not = incomparable(run, recipe, self.data.identity)
        wanted = RunRequest(Candidate(self._architecture(run), recipe), self.request.seed, Role.REPLAY, label=run.name)
        known = self.records.find_complete(wanted.key(self.data.identity))
        if known is not None:
            self._check_precision(run, known)
        record = known or self._train(run, wanted, why_not)
        result = replay_result(run, record, self.records)
        self.callbacks.on_replay_end(result, known=known is not None)
        return result

    def _check_precision(self, run: RecordedRun, known: Run) -> None:
        asked = self.runtime.runtime_for(known.architecture).precision
        precision = json.loads(known.environment).get("precision")
        if precision != asked:
            self.callbacks.on_message(
                f"{run.name}: the recorded run used {precision}, not {asked}; choose another --storage to retrain it"
            )

    def _train(self, run: RecordedRun, wanted: RunRequest, why_not: tuple[str, ...]) -> Run:
        self.callbacks.on_progress(f"timing a few steps of {run.name}")
        recipe, images = wanted.candidate.recipe, self.images
        timing = time_steps(wanted.candidate, images, self.runtime)
        macs = count(wanted.candidate.architecture).macs
        seconds = timing.seconds(macs, recipe.epochs, trained=len(images.train), evaluated=len(images.evaluation))
        self.callbacks.on_replay_start(ReplayPlan(run, recipe, why_not, seconds))
        number = record_training(
            wanted, images, self.runtime, self.records, self.stopper, self.callbacks, keep_weights=True
        )
        return self.records.run(number)

    def _architecture(self, run: RecordedRun) -> Architecture:
        data = self.data
        return named(run.network, in_channels=data.in_channels, size=data.resolution, classes=len(data.classes))


def _images(data: Data, request: DataRequest, constants: Normalisation | None, runtime: Runtime) -> RunImages:
    assert constants is not None, "every recorded run has normalisation constants"
    device = runtime.torch_device
    return RunImages(
        identity=data.identity,
        train=to_device(data.all_train, device),
        evaluation=to_device(load_test(request, data.identity), device),
        normalisation=for_channels(constants, data.in_channels),
        test_reason=TEST_REASON,
    )


def names_of(names: Sequence[str], *, everything: bool) -> tuple[str, ...]:
    """Return the names to replay; empty for all of them.

    Raises:
        InputError: If both names and ``--all`` are given, or neither.
    """
    if everything == bool(names):
        rule = "cannot be combined with names" if everything else "name a recorded run"
        raise InputError("--all" if everything else "NAME", None, rule, "list them with budgetnas replay --list")
    return tuple(names)
