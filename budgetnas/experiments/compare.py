"""SGD against Adam on a study's terms: the trainings of a comparison's design, recorded, and those known used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from budgetnas.architecture import count
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
from budgetnas.runs.interrupts import Stopper
from budgetnas.runs.recording import RunImages, RunRequest, record_training
from budgetnas.runs.reopen import DataPlace, load_study_data, study_specification, validation_images
from budgetnas.space.recipe import OptimizerName
from budgetnas.storage import Records, Role, Run, RunKey, State
from budgetnas.training import Callbacks, RuntimeConfig, Task
from budgetnas.training.measure import measure_pace

_DIVERGED: Final = (" loss is nan in epoch ", " loss is inf in epoch ", " loss is -inf in epoch ")


@dataclass(frozen=True, slots=True)
class CompareRequest:
    """What to compare.

    Attributes:
        study: Whose space, budget, data, epochs and ranges of rates.
        architectures: How many architectures.
        rates: Learning rates of each optimiser.
        seed: Of the drawn architectures and of all trainings.
        place: Where the data lie.
    """

    study: str
    architectures: int = DEFAULT_ARCHITECTURES
    rates: int = DEFAULT_RATES
    seed: int = 0
    place: DataPlace = field(default_factory=DataPlace)


@dataclass(frozen=True, slots=True)
class ComparePlan:
    """What a comparison is about to train.

    Attributes:
        study: Name of the study.
        design: Everything that it needs.
        data: Which data.
        runtime: Where: the fastest of those timed.
        missing: Trainings to come; the others are recorded already.
        macs: Multiply-accumulates per image of the trainings to come, added up.
        seconds: Estimated time; nothing if nothing is missing, or memory ran out.
    """

    study: str
    design: Design
    data: Data
    runtime: RuntimeConfig
    missing: int
    macs: float
    seconds: float | None


@dataclass(frozen=True, slots=True)
class CompareStep:
    """One training of a comparison, about to start or ended.

    Attributes:
        entrant: The architecture.
        optimizer: The optimiser.
        rate: The learning rate.
        again: Whether this is the best rate with the fresh seed.
    """

    entrant: Entrant
    optimizer: OptimizerName
    rate: float
    again: bool

    @property
    def label(self) -> str:
        """The label of its record, e.g. ``sgd lr 0.0707 again``."""
        return f"{self.optimizer} lr {self.rate:.3g}{' again' if self.again else ''}"

    def describe(self) -> str:
        """Return it in words, e.g. ``v2, SGD lr 0.0707 again``."""
        return f"{self.entrant.name}, {NAMES[self.optimizer]} lr {self.rate:.3g}{' again' if self.again else ''}"


class CompareView(Callbacks):
    """Whoever shows a comparison."""

    def compare_planned(self, plan: ComparePlan) -> None:
        """Hear what is about to run."""

    def compare_started(self, step: CompareStep) -> None:
        """Hear which training starts."""

    def compare_ended(self, step: CompareStep, attempt: Attempt, *, known: bool) -> None:
        """Hear how a training ended, now or in an earlier call (`known`)."""

    def pair_ended(self, pair: Pair) -> None:
        """Hear what an architecture gave."""


@dataclass(frozen=True, slots=True)
class CompareOutcome:
    """How a comparison ended.

    Attributes:
        comparison: What it came to.
        exit_code: 0 when done or out of time, 1 if a pair was dropped, 130 after Ctrl-C, 143 after SIGTERM.
    """

    comparison: Comparison
    exit_code: int


def compare(
    request: CompareRequest,
    runtimes: Sequence[RuntimeConfig],
    open_storage: Callable[[], Records],
    stopper: Stopper,
    view: CompareView,
) -> CompareOutcome:
    """Train what the comparison needs and is not recorded; the test split is never read.

    Everything that can be wrong is checked before anything is trained.

    Args:
        request: What to compare.
        runtimes: Where and in which precision: the fastest of them is taken, the likely one first.
        open_storage: Returns the records.
        stopper: Notes requests to stop.
        view: Whoever shows progress.

    Raises:
        InputError: If the request cannot be met.
    """
    records = open_storage()
    specification = study_specification(records, request.study)
    design = make_design(specification, architectures=request.architectures, rates=request.rates, seed=request.seed)
    for optimizer in OPTIMIZERS:
        if optimizer not in specification.recipes.optimizers:
            low, high = specification.recipes.range_of(optimizer).learning_rate
            view.on_message(
                f"the study does not search {NAMES[optimizer]}; its rates are taken from {low:g} to {high:g}"
            )
    view.on_progress("loading data")
    data, _ = load_study_data(specification, request.study, request.place)
    images = validation_images(data, runtimes[0])
    known = _Known.read(records, request.study)
    trainer = _Trainer(request.study, design, images, runtimes[0], records, known, stopper, view)
    pairs: list[Pair] = []
    try:
        view.on_progress("timing a few training steps")
        plan = _plan(trainer, data, runtimes[1:])
        view.compare_planned(plan)
        trainer = replace(trainer, runtime=plan.runtime)
        for entrant in design.entrants:
            pairs.append(trainer.pair(entrant))
            view.pair_ended(pairs[-1])
    except Interrupted as stop:
        return CompareOutcome(Comparison(design, tuple(pairs)), stop.exit_code)
    comparison = Comparison(design, tuple(pairs))
    return CompareOutcome(comparison, EXIT_FAILED if comparison.dropped else EXIT_DONE)


@dataclass(frozen=True, slots=True)
class _Known:
    """What the study's comparisons have trained: a training that is complete or diverged is not made again."""

    attempts: dict[RunKey, Attempt]

    @classmethod
    def read(cls, records: Records, study: str) -> _Known:
        runs = records.runs(study=study, role=Role.COMPARE)
        curves = records.curves(run.id for run in runs if run.state is State.COMPLETE)
        ended = {}
        for run in runs:
            if run.state is State.COMPLETE:
                ended[_key(run)] = Attempt(run.recipe.learning_rate, run.id, curves[run.id][-1].eval_accuracy)
            elif run.state is State.FAILED and _diverged(run.reason):
                ended.setdefault(_key(run), _failed(run.recipe.learning_rate, run.id, run.reason))
        return cls(ended)


@dataclass(frozen=True, slots=True)
class _Trainer:
    study: str
    design: Design
    images: RunImages
    runtime: RuntimeConfig
    records: Records
    known: _Known
    stopper: Stopper
    view: CompareView

    def pair(self, entrant: Entrant) -> Pair:
        """Return the pair of an architecture.

        The optimisers take turns, so that what changes on this machine in the meantime meets both.
        """
        attempts: dict[OptimizerName, list[Attempt]] = {optimizer: [] for optimizer in OPTIMIZERS}
        for rates in zip(self.design.sgd, self.design.adam, strict=True):
            for optimizer, rate in zip(OPTIMIZERS, rates, strict=True):
                attempts[optimizer].append(self._attempt(CompareStep(entrant, optimizer, rate, again=False)))
        sgd, adam = (self._again(entrant, one, Side(tuple(attempts[one]))) for one in OPTIMIZERS)
        return Pair(entrant, sgd, adam)

    def missing(self, entrant: Entrant) -> int:
        """Return how many trainings of an architecture are not known."""
        return sum(self._missing(entrant, optimizer) for optimizer in OPTIMIZERS)

    def request(self, step: CompareStep) -> RunRequest:
        candidate = self.design.candidate(step.entrant, step.optimizer, step.rate)
        seed = step.entrant.fresh_seed if step.again else step.entrant.tried_seed
        return RunRequest(candidate, seed, Role.COMPARE, study=self.study, label=step.label)

    def _lookup(self, step: CompareStep) -> Attempt | None:
        return self.known.attempts.get(self.request(step).key(self.images.identity))

    def _missing(self, entrant: Entrant, optimizer: OptimizerName) -> int:
        rates = self.design.rates(optimizer)
        found = [self._lookup(CompareStep(entrant, optimizer, rate, again=False)) for rate in rates]
        attempts = tuple(one for one in found if one is not None)
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
            self.view.compare_started(step)
        attempt = known or self._train(step)
        self.view.compare_ended(step, attempt, known=known is not None)
        return attempt

    def _train(self, step: CompareStep) -> Attempt:
        request = self.request(step)
        try:
            run = record_training(request, self.images, self.runtime, self.records, self.stopper, self.view)
        except RunFailedError as error:
            failed = self.records.find_failed(request.key(self.images.identity), study=self.study)
            return _failed(step.rate, failed.id if failed else 0, error.reason)
        return Attempt(step.rate, run, self.records.curve(run)[-1].eval_accuracy)


def _plan(trainer: _Trainer, data: Data, others: Sequence[RuntimeConfig]) -> ComparePlan:
    design = trainer.design
    missing = {entrant: trainer.missing(entrant) for entrant in design.entrants}
    macs = sum(number * count(entrant.architecture).macs for entrant, number in missing.items())
    runtime, seconds = _timed(trainer, others, macs) if macs else (trainer.runtime, None)
    return ComparePlan(trainer.study, design, data, runtime, sum(missing.values()), macs, seconds)


def _timed(trainer: _Trainer, others: Sequence[RuntimeConfig], macs: float) -> tuple[RuntimeConfig, float | None]:
    """Return the fastest runtime for a typical network, and the time it means for all trainings to come."""
    design, images = trainer.design, trainer.images
    typical = sorted(design.entrants, key=lambda one: count(one.architecture).macs)[len(design.entrants) // 2]
    candidate = design.candidate(typical, "sgd", design.sgd[0])
    task = Task(candidate.architecture, candidate.recipe, 0, images.train, images.evaluation, images.normalisation)
    runtime, pace = measure_pace(task, trainer.runtime, others)
    if pace is None:
        return runtime, None
    epochs = design.recipes.epochs
    return runtime, pace.seconds(macs, trained=len(images.train) * epochs, evaluated=len(images.evaluation) * epochs)


def _key(run: Run) -> RunKey:
    candidate = run.architecture.digest, run.recipe.digest
    return RunKey(*candidate, DataIdentity.model_validate_json(run.data).digest(), run.seed, run.role)


def _failed(rate: float, run: int, reason: str) -> Attempt:
    return Attempt(rate, run, None, reason, diverged=_diverged(reason))


def _diverged(reason: str) -> bool:
    return any(sign in reason for sign in _DIVERGED)
