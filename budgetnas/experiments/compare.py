"""Compare SGD and Adam with the space, budget and data of a study: train and record the missing runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from budgetnas.data import Data, DataIdentity
from budgetnas.errors import EXIT_DONE, EXIT_FAILED, Interrupted, RunFailedError
from budgetnas.experiments.comparison import (
    DEFAULT_ARCHITECTURES,
    DEFAULT_RATES,
    NAMES,
    OPTIMIZERS,
    Attempt,
    Comparison,
    Design,
    Entrant,
    Pair,
    Side,
    make_design,
)
from budgetnas.metrics import Measure
from budgetnas.runs.interrupts import Stopper
from budgetnas.runs.recording import RunImages, RunRequest, record_training
from budgetnas.runs.reopen import DataPlace, load_study_data, study_specification, validation_images
from budgetnas.runs.timing import time_steps
from budgetnas.space.recipe import OptimizerName
from budgetnas.storage import Records, Role, Run, RunKey, State
from budgetnas.training import Callbacks, Runtime, RuntimeConfig

_DIVERGED: Final = (" loss is nan in epoch ", " loss is inf in epoch ", " loss is -inf in epoch ")


@dataclass(frozen=True, slots=True)
class CompareRequest:
    """What to compare."""

    study: str  # source of space, budget, data, epochs and ranges of rates
    architectures: int = DEFAULT_ARCHITECTURES  # number of architectures
    rates: int = DEFAULT_RATES  # number of learning rates of each optimiser
    seed: int = 0  # seed of the drawn architectures and of all runs
    place: DataPlace = field(default_factory=DataPlace)


@dataclass(frozen=True, slots=True)
class ComparePlan:
    """The work of a comparison."""

    study: str
    design: Design  # the runs that it needs
    data: Data
    runtime: RuntimeConfig  # runtime config of a typical network
    missing: int  # number of runs that are not recorded yet
    macs: float  # multiply-accumulates per image of the missing runs, added up
    seconds: float | None  # estimated time, or None if no run is missing or memory ran out


@dataclass(frozen=True, slots=True)
class CompareStep:
    """A run of a comparison."""

    entrant: Entrant
    optimizer: OptimizerName
    rate: float
    again: bool  # whether this repeats the best rate with the fresh seed

    @property
    def label(self) -> str:
        """The label of its record, e.g. ``sgd lr 0.0707 again``."""
        return f"{self.optimizer} lr {self.rate:.3g}{' again' if self.again else ''}"

    def describe(self) -> str:
        """Return the run in words, e.g. ``v2, SGD lr 0.0707 again``."""
        return f"{self.entrant.name}, {NAMES[self.optimizer]} lr {self.rate:.3g}{' again' if self.again else ''}"


class CompareCallbacks(Callbacks):
    """Hooks of a comparison."""

    def on_compare_start(self, plan: ComparePlan) -> None:
        """Called before the first run."""

    def on_compare_run(self, step: CompareStep) -> None:
        """Called before each run that is trained."""

    def on_compare_run_end(self, step: CompareStep, attempt: Attempt, *, known: bool) -> None:
        """Called after each run; `known` if an earlier call trained it."""

    def on_pair_end(self, pair: Pair) -> None:
        """Called after the last run of an architecture."""


@dataclass(frozen=True, slots=True)
class CompareOutcome:
    """The end of a comparison."""

    comparison: Comparison
    exit_code: int  # 0 when done or out of time, 1 if a pair was dropped, 130 after Ctrl-C, 143 after SIGTERM


def compare(
    request: CompareRequest,
    runtime: Runtime,
    open_storage: Callable[[], Records],
    stopper: Stopper,
    callbacks: CompareCallbacks,
) -> CompareOutcome:
    """Train the missing runs of a comparison; the test split is never used.

    All checks come before the first run.

    Raises:
        InputError: If the request is invalid.
    """
    records = open_storage()
    specification = study_specification(records, request.study)
    design = make_design(specification, architectures=request.architectures, rates=request.rates, seed=request.seed)
    for optimizer in OPTIMIZERS:
        if optimizer not in specification.recipes.optimizers:
            low, high = specification.recipes.range_of(optimizer).learning_rate
            callbacks.on_message(
                f"the study does not search {NAMES[optimizer]}; its rates are taken from {low:g} to {high:g}"
            )
    callbacks.on_progress("loading data")
    data, _ = load_study_data(specification, request.study, request.place)
    images = validation_images(data, runtime)
    known = _known_attempts(records, request.study, design.measure)
    trainer = _Trainer(request.study, design, images, runtime, records, known, stopper, callbacks)
    pairs: list[Pair] = []
    try:
        callbacks.on_progress("timing a few training steps")
        plan = _plan(trainer, data)
        callbacks.on_compare_start(plan)
        for entrant in design.entrants:
            pairs.append(trainer.pair(entrant))
            callbacks.on_pair_end(pairs[-1])
    except Interrupted as stop:
        if stop.reason:
            callbacks.on_message(stop.reason)
        return CompareOutcome(Comparison(design, tuple(pairs)), stop.exit_code)
    comparison = Comparison(design, tuple(pairs))
    return CompareOutcome(comparison, EXIT_FAILED if comparison.dropped else EXIT_DONE)


def _known_attempts(records: Records, study: str, measure: Measure) -> dict[RunKey, Attempt]:
    """Return the complete and the diverged runs of the study's comparisons, which are not trained again."""
    runs = records.runs(study=study, role=Role.COMPARE)
    curves = records.curves(run.id for run in runs if run.state is State.COMPLETE)
    attempts: dict[RunKey, Attempt] = {}
    for run in runs:
        if run.state is State.COMPLETE:
            attempts[_key(run)] = Attempt(run.recipe.learning_rate, run.id, measure.of(curves[run.id][-1]))
        elif run.state is State.FAILED and _diverged(run.reason):
            attempts.setdefault(_key(run), _failed(run.recipe.learning_rate, run.id, run.reason))
    return attempts


@dataclass(frozen=True, slots=True)
class _Trainer:
    study: str
    design: Design
    images: RunImages
    runtime: Runtime
    records: Records
    known: dict[RunKey, Attempt]
    stopper: Stopper
    callbacks: CompareCallbacks

    def pair(self, entrant: Entrant) -> Pair:
        """Train the missing runs of an architecture, and return its pair.

        The optimisers alternate, so that changes of this machine over time affect both.
        """
        attempts: dict[OptimizerName, list[Attempt]] = {optimizer: [] for optimizer in OPTIMIZERS}
        for rates in zip(self.design.sgd, self.design.adam, strict=True):
            for optimizer, rate in zip(OPTIMIZERS, rates, strict=True):
                attempts[optimizer].append(self._attempt(CompareStep(entrant, optimizer, rate, again=False)))
        sgd, adam = (self._again(entrant, optimizer, Side(tuple(tried))) for optimizer, tried in attempts.items())
        return Pair(entrant, sgd, adam)

    def missing(self, entrant: Entrant) -> int:
        """Return how many runs of an architecture are not known."""
        return sum(self._missing(entrant, optimizer) for optimizer in OPTIMIZERS)

    def request(self, step: CompareStep) -> RunRequest:
        candidate = self.design.candidate(step.entrant, step.optimizer, step.rate)
        seed = step.entrant.fresh_seed if step.again else step.entrant.tried_seed
        return RunRequest(candidate, seed, Role.COMPARE, study=self.study, label=step.label)

    def _lookup(self, step: CompareStep) -> Attempt | None:
        return self.known.get(self.request(step).key(self.images.identity))

    def _missing(self, entrant: Entrant, optimizer: OptimizerName) -> int:
        rates = self.design.rates(optimizer)
        known = [self._lookup(CompareStep(entrant, optimizer, rate, again=False)) for rate in rates]
        attempts = tuple(attempt for attempt in known if attempt is not None)
        if len(attempts) < len(rates):
            return len(rates) - len(attempts) + 1
        best = Side(attempts).best
        return int(best is not None and self._lookup(CompareStep(entrant, optimizer, best.rate, again=True)) is None)

    def _again(self, entrant: Entrant, optimizer: OptimizerName, side: Side) -> Side:
        best = side.best
        if best is None:
            return side
        return replace(side, again=self._attempt(CompareStep(entrant, optimizer, best.rate, again=True)))

    def _attempt(self, step: CompareStep) -> Attempt:
        self.stopper.check()
        known = self._lookup(step)
        if known is None:
            self.callbacks.on_compare_run(step)
        attempt = known or self._train(step)
        self.callbacks.on_compare_run_end(step, attempt, known=known is not None)
        return attempt

    def _train(self, step: CompareStep) -> Attempt:
        request = self.request(step)
        try:
            run = record_training(request, self.images, self.runtime, self.records, self.stopper, self.callbacks)
        except RunFailedError as error:
            failed = self.records.failed_since(request.key(self.images.identity), study=self.study, at=0.0)
            return _failed(step.rate, failed.id if failed else 0, error.reason)
        return Attempt(step.rate, run, self.design.measure.of(self.records.curve(run)[-1]))


def _plan(trainer: _Trainer, data: Data) -> ComparePlan:
    design, images, entrants = trainer.design, trainer.images, trainer.design.entrants
    missing = [trainer.missing(entrant) for entrant in entrants]
    macs = sum(number * entrant.macs for entrant, number in zip(entrants, missing, strict=True))
    typical, seconds = sorted(entrants, key=lambda entrant: entrant.macs)[len(entrants) // 2], None
    if macs:
        timing = time_steps(design.candidate(typical, "sgd", design.sgd[0]), images, trainer.runtime)
        sizes = {"trained": len(images.train), "evaluated": len(images.evaluation)}
        seconds = timing.seconds(macs, design.recipes.epochs, **sizes, trainings=sum(missing))
    runtime = trainer.runtime.runtime_for(typical.architecture)
    return ComparePlan(trainer.study, design, data, runtime, sum(missing), macs, seconds)


def _key(run: Run) -> RunKey:
    return RunKey(*run.candidate.key, DataIdentity.model_validate_json(run.data).digest(), run.seed, run.role)


def _failed(rate: float, run: int, reason: str) -> Attempt:
    return Attempt(rate, run, None, reason, diverged=_diverged(reason))


def _diverged(reason: str) -> bool:
    return any(sign in reason for sign in _DIVERGED)
