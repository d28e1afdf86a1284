"""Replays: the source report's runs trained again by its protocol, beside what it printed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from budgetnas.architecture import Architecture, count, named
from budgetnas.data import Data, DataRequest, load_data
from budgetnas.data.test_split import load_test
from budgetnas.errors import BudgetnasError, InputError, RunFailedError, check_seed
from budgetnas.experiments.published import RecordedRun, for_channels, recorded_run, recorded_runs
from budgetnas.experiments.replay_results import ReplayResult, incomparable, replay_result
from budgetnas.runs.interrupts import Stopper
from budgetnas.runs.recording import RunImages, RunRequest, record_training
from budgetnas.space.recipe import Normalisation, Recipe
from budgetnas.space.search_space import Candidate
from budgetnas.storage import Records, Role, Run, State
from budgetnas.training import Callbacks, RuntimeConfig, Task
from budgetnas.training.device import to_device
from budgetnas.training.measure import measure_pace

TEST_REASON: Final = "replay: the report's protocol looks at the test split after every epoch"


@dataclass(frozen=True, slots=True)
class ReplayRequest:
    """What to replay, and what to change about it.

    Attributes:
        names: Recorded runs; empty: all of them.
        data: Which data; the protocol's are CIFAR-10, all of its training images.
        epochs: Another number of epochs; nothing: the report's.
        t_max: Another length of the cosine; nothing: the text's, scaled with the epochs.
        seed: Seed of initial weights, order and augmentation.
    """

    names: tuple[str, ...]
    data: DataRequest
    epochs: int | None = None
    t_max: int | None = None
    seed: int = 0

    def runs(self) -> tuple[RecordedRun, ...]:
        """Return the runs to replay.

        Raises:
            InputError: If a name or number cannot be used.
        """
        check_seed(self.seed)
        for argument, value in (("--epochs", self.epochs), ("--t-max", self.t_max)):
            if value is not None and not 1 <= value <= 10_000:
                raise InputError(argument, value, "must be a whole number from 1 to 10,000")
        return tuple(recorded_run(name) for name in self.names) or tuple(recorded_runs().values())


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    """A run about to be replayed.

    Attributes:
        run: The recorded run.
        recipe: How it is trained here.
        params: Counted parameters of its network, for the report's images: equal to the printed count.
        why_not: Why its figures cannot be compared with the printed ones; empty if they can.
        seconds: Estimated time; nothing where memory ran out.
    """

    run: RecordedRun
    recipe: Recipe
    params: int
    why_not: tuple[str, ...]
    seconds: float | None


class ReplayView(Callbacks):
    """Whoever shows replays."""

    def replay_planned(self, plan: ReplayPlan) -> None:
        """Hear which run starts."""

    def replay_ended(self, result: ReplayResult, *, known: bool) -> None:
        """Hear what a run gave, now or in an earlier call (`known`)."""


@dataclass(frozen=True, slots=True)
class ReplayOutcome:
    """What became of the replays that were asked for.

    Attributes:
        results: Those with a complete record, trained now or before.
        failed: Names of those that failed.
        records: The storage.
    """

    results: tuple[ReplayResult, ...]
    failed: tuple[str, ...]
    records: Records


def replay(
    request: ReplayRequest,
    runtimes: Sequence[RuntimeConfig],
    open_storage: Callable[[], Records],
    stopper: Stopper,
    view: ReplayView,
) -> ReplayOutcome:
    """Replay the runs in turn; those with a complete record are taken from it.

    A run that fails does not stop the others. The storage is opened when all else is known to be there.

    Args:
        request: Which runs, and how.
        runtimes: Where and in which precision: the fastest of them is taken, the likely one first.
        open_storage: Returns the records.
        stopper: Notes requests to stop.
        view: Whoever shows progress.

    Raises:
        InputError: If the request cannot be met.
        BudgetnasError: If a count is not the printed one.
        Interrupted: If a stop was requested; complete runs are recorded.
    """
    runs = request.runs()
    for run in runs:
        check_count(run)
    view.on_progress("loading data")
    data = load_data(request.data)
    for text in data.notices:
        view.on_message(text)
    images = _images(data, request.data, runs[0].recipe.normalisation, runtimes[0])
    replayer = _Replayer(request, data, images, runtimes, open_storage(), stopper, view)
    results, failed = [], []
    for run in runs:
        stopper.check()
        try:
            results.append(replayer.replay(run))
        except RunFailedError as error:
            why_not = "; ".join(incomparable(run, recipe_for(run, request.epochs, request.t_max), data.identity))
            mark = f" [NOT COMPARABLE: {why_not}]" if why_not else ""
            view.on_message(f"{run.name}{mark} failed: {error.reason}")
            failed.append(run.name)
    return ReplayOutcome(tuple(results), tuple(failed), replayer.records)


def check_count(run: RecordedRun) -> int:
    """Return the parameters of a recorded run's network, which must be the printed ones.

    Raises:
        BudgetnasError: If they are not.
    """
    params = count(named(run.network)).params
    if params != run.params:
        raise BudgetnasError(f"{run.name}: counted {params:,} parameters, the report has {run.params:,}")
    return params


def recipe_for(run: RecordedRun, epochs: int | None, t_max: int | None) -> Recipe:
    """Return a run's recipe with other epochs, its cosine scaled with them, or with another cosine."""
    recipe = run.recipe
    asked = recipe.epochs if epochs is None else epochs
    scaled = max(1, round(recipe.t_max * asked / recipe.epochs))
    return recipe.model_copy(update={"epochs": asked, "t_max": scaled if t_max is None else t_max})


def recorded_results(records: Records) -> tuple[ReplayResult, ...]:
    """Return the result of every complete replay in a storage, oldest first."""
    runs = recorded_runs()
    complete = [one for one in records.runs(role=Role.REPLAY) if one.state is State.COMPLETE and one.label in runs]
    return tuple(replay_result(runs[record.label], record, records) for record in complete)


@dataclass(frozen=True, slots=True)
class _Replayer:
    request: ReplayRequest
    data: Data
    images: RunImages
    runtimes: Sequence[RuntimeConfig]
    records: Records
    stopper: Stopper
    view: ReplayView

    def replay(self, run: RecordedRun) -> ReplayResult:
        recipe = recipe_for(run, self.request.epochs, self.request.t_max)
        why_not = incomparable(run, recipe, self.data.identity)
        wanted = RunRequest(Candidate(self._architecture(run), recipe), self.request.seed, Role.REPLAY, label=run.name)
        known = self.records.find_complete(wanted.key(self.data.identity))
        if known is not None:
            self._tell_difference(run, known)
        record = known or self._train(run, wanted, why_not)
        result = replay_result(run, record, self.records)
        self.view.replay_ended(result, known=known is not None)
        return result

    def _tell_difference(self, run: RecordedRun, known: Run) -> None:
        precision, asked = json.loads(known.environment).get("precision"), self.runtimes[0].precision
        if precision not in {runtime.precision for runtime in self.runtimes}:
            self.view.on_message(
                f"{run.name}: the record was made in {precision}, not {asked}; name another --storage to train it again"
            )

    def _train(self, run: RecordedRun, wanted: RunRequest, why_not: tuple[str, ...]) -> Run:
        self.view.on_progress(f"timing a few steps of {run.name}")
        runtime, seconds = self._timed(wanted.candidate)
        self.view.replay_planned(ReplayPlan(run, wanted.candidate.recipe, run.params, why_not, seconds))
        number = record_training(wanted, self.images, runtime, self.records, self.stopper, self.view, keep_weights=True)
        return self.records.run(number)

    def _architecture(self, run: RecordedRun) -> Architecture:
        data = self.data
        return named(run.network, in_channels=data.in_channels, size=data.resolution, classes=len(data.classes))

    def _timed(self, candidate: Candidate) -> tuple[RuntimeConfig, float | None]:
        fit, evaluation = self.images.train, self.images.evaluation
        task = Task(candidate.architecture, candidate.recipe, 0, fit, evaluation, self.images.normalisation)
        runtime, pace = measure_pace(task, self.runtimes[0], self.runtimes[1:])
        epochs, macs = candidate.recipe.epochs, count(candidate.architecture).macs
        if pace is None:
            return runtime, None
        return runtime, pace.seconds(macs, trained=len(fit) * epochs, evaluated=len(evaluation) * epochs)


def _images(data: Data, request: DataRequest, constants: Normalisation | None, runtime: RuntimeConfig) -> RunImages:
    assert constants is not None, "every recorded run has constants"
    device = runtime.torch_device
    return RunImages(
        identity=data.identity,
        train=to_device(data.all_train, device),
        evaluation=to_device(load_test(request), device),
        normalisation=for_channels(constants, data.in_channels),
        test_reason=TEST_REASON,
    )


def names_of(names: Sequence[str], *, everything: bool) -> tuple[str, ...]:
    """Return the names to replay: those given, or none for all of them.

    Raises:
        InputError: If both or neither are asked for.
    """
    if everything == bool(names):
        rule = "takes no names beside it" if everything else "name a recorded run"
        raise InputError("--all" if everything else "NAME", None, rule, "list them with budgetnas replay --list")
    return tuple(names)
