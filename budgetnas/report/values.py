"""The tables of a study's report; accuracies are shares of 1.

They are balanced accuracies if those are the study's objective, except the accuracies of single classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from budgetnas.architecture import Architecture
from budgetnas.architecture.budget import Excess, Limit
from budgetnas.errors import plural
from budgetnas.experiments.final_results import FinalResult
from budgetnas.experiments.plain import plain_fields
from budgetnas.metrics import ACCURACY, ClassAccuracy, ClassCounts, Epoch, Measure
from budgetnas.space.recipe import Recipe
from budgetnas.space.specification import StudySpecification
from budgetnas.storage import OverLimit, Run


@dataclass(frozen=True, slots=True)
class Summary:
    """The specification of a study, as text for its report."""

    max_params: int  # the limit on parameters
    limits: tuple[Limit, ...]  # all limits, that on parameters first
    data: str  # label of the data
    images: str  # shape of the images and number of classes
    space: str  # the architectures
    space_size: int  # number of architectures in the space
    recipe: str  # the fixed part of the recipe
    optimizers: tuple[str, ...]  # the searched part: one line for each optimiser
    seeds: tuple[str, ...]  # names of the initial trials
    objective: str  # what a trial is judged by


def name_of(run: Run) -> str:
    """Return a run's name in figures and tables: its initial trial's, or its number."""
    return run.label or (f"trial {run.trial}" if run.trial is not None else f"run {run.id}")


@dataclass(frozen=True, slots=True)
class Training:
    """A complete or pruned run of the search."""

    run: Run
    order: int  # its place in time among the complete and pruned runs, from 1
    curve: tuple[Epoch, ...]
    measure: Measure = ACCURACY  # the study's objective

    @property
    def name(self) -> str:
        """Name of the run."""
        return name_of(self.run)

    @property
    def accuracy(self) -> float:
        """Validation accuracy after the last epoch."""
        return self.measure.of(self.curve[-1])

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, without the curve."""
        place = {"order": self.order, "run": self.run.id}
        shown = plain_fields(self.run, "trial", "role", "label", "seed")
        return place | shown | {"accuracy": self.accuracy, "seconds": self.run.seconds}


@dataclass(frozen=True, slots=True)
class RankedRun:
    """A candidate with at least one complete training."""

    rank: int  # from 1: by `accuracy`, ties by fewer parameters
    budget_share: float  # parameters as a share of the budget
    trainings: tuple[Training, ...]  # all its complete trainings, oldest first

    @property
    def run(self) -> Run:
        """Record of the first training."""
        return self.trainings[0].run

    @property
    def curve(self) -> tuple[Epoch, ...]:
        """Epochs of the first training."""
        return self.trainings[0].curve

    @property
    def repeats(self) -> tuple[Training, ...]:
        """All trainings but the first."""
        return self.trainings[1:]

    @property
    def label(self) -> str:
        """Name of the initial trial, or empty."""
        return next((training.run.label for training in self.trainings if training.run.label), "")

    @property
    def name(self) -> str:
        """Name of the candidate: its initial trial's, or the number of its first run."""
        return self.label or name_of(self.run)

    @property
    def accuracy(self) -> float:
        """Validation accuracy after the last epoch, the mean of all trainings."""
        return fmean(training.accuracy for training in self.trainings)

    @property
    def best(self) -> Epoch:
        """The epoch of the first training with the highest validation accuracy."""
        return max(self.curve, key=self.trainings[0].measure.of)

    @property
    def best_accuracy(self) -> float:
        """The validation accuracy after that epoch."""
        return self.trainings[0].measure.of(self.best)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, without the curves."""
        return {
            "rank": self.rank,
            **self.trainings[0].to_dict(),
            "label": self.label,
            **plain_fields(self.run, "architecture", "recipe", "params", "macs"),
            "budget_share": self.budget_share,
            "accuracy": self.accuracy,
            "best_accuracy": self.best_accuracy,
            "best_epoch": self.best.epoch,
            "trainings": [training.to_dict() for training in self.trainings],
        }


@dataclass(frozen=True, slots=True)
class Pruning:
    """The effect of pruning."""

    pruner: str  # ``asha``, ``model``, ``median`` or ``none``
    pruned: tuple[Training, ...]  # oldest first; they have no rank
    epochs_asked: int  # epochs that all complete and pruned runs would have without pruning
    epochs_saved: int  # how many of these were not trained

    @property
    def saved_share(self) -> float:
        """Share of the epochs that were not trained."""
        return self.epochs_saved / self.epochs_asked if self.epochs_asked else 0.0

    def sentence(self) -> str:
        """Return the effect in one sentence; empty without a pruner."""
        if self.pruner == "none":
            return ""
        if not self.pruned:
            return f"{self.pruner} pruned no run"
        return (
            f"{self.pruner} pruned {plural(len(self.pruned), 'run')}: {self.epochs_saved:,} of "
            f"{plural(self.epochs_asked, 'epoch')} saved ({self.saved_share:.1%})"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, without the curves."""
        shown = plain_fields(self, "pruner", "epochs_asked", "epochs_saved", "saved_share")
        cut = [
            _run_dict(training.run)
            | plain_fields(training, "order", "accuracy")
            | plain_fields(training.run, "epochs_asked")
            for training in self.pruned
        ]
        return shown | {"cut": cut}


def _run_dict(run: Run) -> dict[str, Any]:
    shown = plain_fields(run, "trial", "label", "architecture", "recipe", "params", "epochs_done", "reason")
    return {"run": run.id} | shown


@dataclass(frozen=True, slots=True)
class OriginCount:
    """How many proposals of one origin were rejected, by reason."""

    origin: str
    over_budget: int
    duplicates: int


@dataclass(frozen=True, slots=True)
class Overshoot:
    """Parameters of the proposals over the limit on parameters, as multiples of that limit."""

    smallest: float
    median: float
    largest: float


@dataclass(frozen=True, slots=True)
class RejectedInitialTrial:
    """An initial trial that was rejected."""

    name: str
    params: int
    overshoot: int  # parameters over the budget, or 0
    duplicate: bool  # True if it was rejected because the study has it already
    excesses: tuple[Excess, ...]  # the limits that it exceeds


@dataclass(frozen=True, slots=True)
class Rejections:
    """The proposals that were rejected before training."""

    origins: tuple[OriginCount, ...]  # counts by origin, the most frequent first
    seeds: tuple[RejectedInitialTrial, ...]  # the initial trials among them
    overshoot: Overshoot | None  # parameters over the limit, or None if no proposal exceeded it
    limits: tuple[OverLimit, ...]  # how many proposals exceeded each limit
    # Parameters of each proposal over the limit on parameters, oldest first.
    params: tuple[int, ...] = field(metadata={"plain": False})


@dataclass(frozen=True, slots=True)
class Tallies:
    """Counts of a study; a proposal is a trial that was started or a candidate that was rejected.

    `trained` counts towards ``--trials``: complete and pruned runs. `repeats` are the complete runs among them whose
    candidate had been trained before.
    """

    proposed: int
    over_budget: int
    duplicates: int
    trained: int
    complete: int
    pruned: int
    failed: int
    running: int
    interrupted: int
    repeats: int


@dataclass(frozen=True, slots=True)
class PartShare:
    """A part of the winner and its share of the budget."""

    name: str  # ``stem``, ``stage 1``, ..., ``head``
    params: int
    budget_share: float  # parameters as a share of the budget
    macs: int  # multiply-accumulates per image
    out_shape: tuple[int, ...]  # output channels, height and width
    blocks: int  # residual blocks; 0 for stem and head


@dataclass(frozen=True, slots=True)
class Expected:
    """The winner of a search."""

    run: Run  # its first run
    accuracy: float  # the validation accuracy that all trainings of the search predict for it, the highest of all


@dataclass(frozen=True, slots=True, repr=False)
class Chosen:
    """The network that the study recommends."""

    run: Run  # its first run in the search
    name: str  # name of its initial trial, or its trial's number
    budget_share: float  # parameters as a share of the budget
    # Mean validation accuracy: of the final's fresh seeds, or without a final of its runs in the search.
    accuracy: float
    seeds: int  # number of runs behind that mean
    by_final: bool  # True if a final chose it
    # Without a final: the validation accuracy that all trainings of the search predict for it.
    expected: float | None = None
    by_class: tuple[ClassAccuracy, ...] = ()  # the same mean for each class; empty if it was not recorded

    def __repr__(self) -> str:
        source = "final" if self.by_final else "search"
        network, runs = f"{self.architecture.describe()}, {self.params:,} parameters", plural(self.seeds, "run")
        return f"<Chosen {self.name!r} of the {source}: {network}, accuracy {self.accuracy:.2%} ({runs})>"

    @property
    def architecture(self) -> Architecture:
        """The network."""
        return self.run.architecture

    @property
    def recipe(self) -> Recipe:
        """How it is trained."""
        return self.run.recipe

    @property
    def params(self) -> int:
        """Trainable parameters."""
        return self.run.params

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        shown = plain_fields(self, "name", "budget_share", "accuracy", "seeds", "by_final", "expected", "by_class")
        return {"run": self.run.id} | shown | plain_fields(self.run, "architecture", "recipe", "params", "macs")


@dataclass(frozen=True, slots=True)
class InitialTrialDistance:
    """The lead of the best run of the search over an initial trial."""

    name: str  # name of the initial trial
    outcome: str  # ``trained``, ``rejected``, ``failed``, ``pruned`` or ``not trained``
    accuracy: float | None  # its validation accuracy after the last epoch, or None
    points: float | None  # the best run's accuracy minus its own, in percentage points


@dataclass(frozen=True, slots=True, repr=False)
class StudyTables:
    """Everything that a study's report shows."""

    study: str
    specification: StudySpecification  # what the study was created with
    summary: Summary  # the specification in words
    notices: tuple[str, ...]  # caveats on the figures, in full sentences
    tallies: Tallies
    ranking: tuple[RankedRun, ...]  # candidates with complete trainings, the best first
    failed: tuple[Run, ...]  # runs that failed
    rejections: Rejections
    winner: tuple[PartShare, ...]  # parts of the chosen network; empty before any run is complete
    distances: tuple[InitialTrialDistance, ...]  # the best run of the search against each initial trial
    pruning: Pruning
    chosen: Chosen | None = None  # the winner of the final or of the search; None before any run is complete
    final: FinalResult | None = None
    classes: ClassCounts | None = None  # the validation images by class, or None if not recorded

    def __repr__(self) -> str:
        return f"<StudyTables of {self.study!r}: {plural(len(self.ranking), 'candidate')}, chosen {self.chosen!r}>"

    def name_of(self, run: Run) -> str:
        """Return the name of the candidate that a run of the search trained."""
        return next((candidate.name for candidate in self.ranking if candidate.run.id == run.id), name_of(run))

    @property
    def ahead(self) -> RankedRun | None:
        """The candidate with the best accuracy of its own, if that is above the accuracy of the search's winner.

        The winner has the best expected accuracy, which all trainings of the search predict.
        """
        if self.chosen is None or self.chosen.by_final or self.ranking[0].accuracy <= self.chosen.accuracy:
            return None
        return self.ranking[0]

    @property
    def complete(self) -> tuple[Training, ...]:
        """The complete runs, oldest first."""
        trainings = (training for candidate in self.ranking for training in candidate.trainings)
        return tuple(sorted(trainings, key=lambda training: training.order))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, without the learning curves."""
        return plain_fields(self) | {"failed": [_run_dict(run) for run in self.failed]}
