"""What a study's report shows, as plain frozen values; accuracies are shares of 1."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from budgetnas.architecture import Architecture
from budgetnas.architecture.budget import Excess, Limit
from budgetnas.errors import plural
from budgetnas.experiments.final_results import FinalResult
from budgetnas.experiments.plain import to_plain
from budgetnas.metrics import Epoch
from budgetnas.space.recipe import Recipe
from budgetnas.space.specification import StudySpecification
from budgetnas.storage import Broken, Role


@dataclass(frozen=True, slots=True)
class Summary:
    """What a study was asked to do.

    Attributes:
        max_params: The budget: the limit on parameters.
        limits: All limits, that on parameters first.
        data: Label of the data.
        images: Shape of the images and number of classes, in words.
        space: The architectures, in words.
        space_size: Number of architectures in the space.
        recipe: What is the same for all trials, in words.
        optimizers: What may differ between trials, one line for each optimiser.
        seeds: Names of the seed trials.
        objective: What a trial is judged by.
    """

    max_params: int
    limits: tuple[Limit, ...]
    data: str
    images: str
    space: str
    space_size: int
    recipe: str
    optimizers: tuple[str, ...]
    seeds: tuple[str, ...]
    objective: str


@dataclass(frozen=True, slots=True)
class Training:
    """A complete training of a candidate.

    Attributes:
        order: Its place in time among the complete and pruned trainings, from 1.
        run: Number of the record.
        trial: Number of its Optuna trial.
        role: ``search`` or ``repeat``.
        label: Name of the seed trial it is, or empty.
        seed: Its training seed.
        accuracy: Validation accuracy after the last epoch.
        seconds: How long it took.
        curve: Its epochs.
    """

    order: int
    run: int
    trial: int | None
    role: Role
    label: str
    seed: int
    accuracy: float
    seconds: float | None
    curve: tuple[Epoch, ...] = field(metadata={"plain": False})


@dataclass(frozen=True, slots=True)
class RankedRun:
    """A candidate by its first complete training, and its rank by all of them.

    Attributes:
        rank: From 1: by `accuracy`; equal ones by fewer parameters.
        order: Its place in time among the complete and pruned trainings, from 1.
        run: Number of the record.
        trial: Number of its Optuna trial.
        role: ``search`` or ``repeat``.
        label: Name of the seed trial it is, or empty.
        seed: Seed of the training.
        architecture: What was trained.
        recipe: How.
        params: Parameters.
        budget_share: Parameters as a share of the budget.
        macs: Multiply-accumulates of a forward pass, per image.
        accuracy: Validation accuracy after the last epoch, the mean of `trainings`: what it is judged by.
        best_accuracy: Highest validation accuracy of any epoch of the first training.
        best_epoch: The epoch that had it.
        seconds: How long that training took.
        curve: Its epochs.
        trainings: All complete trainings of the candidate, oldest first; more than one if it was repeated.
    """

    rank: int
    order: int
    run: int
    trial: int | None
    role: Role
    label: str
    seed: int
    architecture: Architecture
    recipe: Recipe
    params: int
    budget_share: float
    macs: int
    accuracy: float
    best_accuracy: float
    best_epoch: int
    seconds: float | None
    curve: tuple[Epoch, ...] = field(metadata={"plain": False})
    trainings: tuple[Training, ...]

    @property
    def repeats(self) -> tuple[Training, ...]:
        """All trainings but the first."""
        return self.trainings[1:]


@dataclass(frozen=True, slots=True)
class PrunedRun:
    """A training that was ended early, and therefore has no rank.

    Attributes:
        order: Its place in time among the complete and pruned trainings, from 1.
        run: Number of the record.
        trial: Number of its Optuna trial.
        label: Name of the seed trial it is, or empty.
        architecture: What was trained.
        recipe: How.
        params: Parameters.
        accuracy: Validation accuracy after its last epoch.
        epochs_done: Epochs it had.
        epochs_asked: Epochs of its recipe.
        reason: What it had and what was needed.
        curve: Its epochs.
    """

    order: int
    run: int
    trial: int | None
    label: str
    architecture: Architecture
    recipe: Recipe
    params: int
    accuracy: float
    epochs_done: int
    epochs_asked: int
    reason: str
    curve: tuple[Epoch, ...] = field(metadata={"plain": False})


@dataclass(frozen=True, slots=True)
class FailedRun:
    """A training that failed, and why."""

    run: int
    trial: int | None
    label: str
    architecture: Architecture
    recipe: Recipe
    params: int
    epochs_done: int
    reason: str


def name_of(run: RankedRun | Training | PrunedRun | FailedRun) -> str:
    """Return what figures and tables call a run: its seed's name, or its number."""
    return run.label or (f"trial {run.trial}" if run.trial is not None else f"run {run.run}")


@dataclass(frozen=True, slots=True)
class Pruning:
    """What pruning spared.

    Attributes:
        pruner: ``asha``, ``median`` or ``none``.
        cut: Trainings that ended at a rung, oldest first.
        epochs_asked: Epochs of all trainings that count towards ``--trials``, had each gone to its end.
        epochs_saved: Those of them that were not trained.
        saved_share: These as a share of all.
    """

    pruner: str
    cut: tuple[PrunedRun, ...]
    epochs_asked: int
    epochs_saved: int
    saved_share: float

    def sentence(self) -> str:
        """Return it in one sentence; empty without a pruner."""
        if self.pruner == "none":
            return ""
        if not self.cut:
            return f"{self.pruner} cut nothing"
        return (
            f"{self.pruner} cut {plural(len(self.cut), 'training')} early: {self.epochs_saved:,} of "
            f"{plural(self.epochs_asked, 'epoch')} saved ({self.saved_share:.1%})"
        )


@dataclass(frozen=True, slots=True)
class OriginCount:
    """How many proposals of one origin were turned away, and why."""

    origin: str
    over_budget: int
    duplicates: int


@dataclass(frozen=True, slots=True)
class Overshoot:
    """How far the proposals with too many parameters were over the budget, as parameters / budget."""

    smallest: float
    median: float
    largest: float


@dataclass(frozen=True, slots=True)
class RejectedInitialTrial:
    """A seed trial that was turned away.

    Attributes:
        name: Its name.
        params: Its parameters.
        overshoot: Parameters over the budget; 0 if these keep it.
        duplicate: True if it was turned away because the study has it already.
        excesses: The limits that it breaks.
    """

    name: str
    params: int
    overshoot: int
    duplicate: bool
    excesses: tuple[Excess, ...]


@dataclass(frozen=True, slots=True)
class Rejections:
    """What was turned away before anything was trained.

    Attributes:
        origins: Counts by origin, the most frequent first.
        seeds: Seed trials among them.
        overshoot: How far over the budget in parameters; nothing if none was over it in these.
        limits: How many broke each limit.
        params: Parameters of each proposal with too many of them, oldest first.
    """

    origins: tuple[OriginCount, ...]
    seeds: tuple[RejectedInitialTrial, ...]
    overshoot: Overshoot | None
    limits: tuple[Broken, ...]
    params: tuple[int, ...] = field(metadata={"plain": False})


@dataclass(frozen=True, slots=True)
class Tallies:
    """Counts of a study; a proposal is a trial that was started, or a candidate turned away.

    `trained` is what counts towards ``--trials``: complete and pruned. `repeats` are the complete ones among them of
    candidates that had been trained before.
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
    """A part of the winner and what it takes of the budget.

    Attributes:
        name: ``stem``, ``stage 1``, ..., ``head``.
        params: Parameters.
        budget_share: Parameters as a share of the budget.
        macs: Multiply-accumulates, per image.
        out_shape: Channels, height and width put out.
        blocks: Residual blocks; 0 for stem and head.
    """

    name: str
    params: int
    budget_share: float
    macs: int
    out_shape: tuple[int, ...]
    blocks: int


@dataclass(frozen=True, slots=True)
class Chosen:
    """The network that the study comes to.

    Attributes:
        run: Number of its record of the search.
        name: Name of its seed, or its trial's number in words.
        architecture: What it is.
        recipe: How it is trained.
        params: Parameters.
        budget_share: Parameters as a share of the budget.
        macs: Multiply-accumulates of a forward pass, per image.
        accuracy: Mean validation accuracy of the final's fresh seeds; without a final, that of its trainings
            in the search.
        seeds: Trainings behind that accuracy.
        by_final: True if a final chose it, False if its trainings in the search did.
    """

    run: int
    name: str
    architecture: Architecture
    recipe: Recipe
    params: int
    budget_share: float
    macs: int
    accuracy: float
    seeds: int
    by_final: bool


@dataclass(frozen=True, slots=True)
class InitialTrialDistance:
    """How far the best run of the search is ahead of a seed trial.

    Attributes:
        name: Name of the seed trial.
        outcome: ``trained``, ``rejected``, ``failed``, ``pruned`` or ``not trained``.
        accuracy: Its validation accuracy after the last epoch.
        points: The best run's accuracy less its own, in percentage points.
    """

    name: str
    outcome: str
    accuracy: float | None
    points: float | None


@dataclass(frozen=True, slots=True)
class StudyTables:
    """Everything a study's report shows.

    Attributes:
        study: Name of the study.
        specification: What the study was created with.
        summary: The same in words.
        notices: Why figures of this study must be read with care, in full sentences.
        tallies: Counts.
        ranking: Candidates with complete trainings, the best first.
        failed: Trainings that failed.
        rejections: What was turned away.
        winner: Parts of the chosen network; empty when nothing is trained.
        distances: The best run of the search against each seed trial.
        pruning: Trainings that were ended early, and the epochs this saved.
        chosen: The winner of the final, else of the search; nothing when nothing is trained.
        final: What the final found; nothing where there was none.
    """

    study: str
    specification: StudySpecification
    summary: Summary
    notices: tuple[str, ...]
    tallies: Tallies
    ranking: tuple[RankedRun, ...]
    failed: tuple[FailedRun, ...]
    rejections: Rejections
    winner: tuple[PartShare, ...]
    distances: tuple[InitialTrialDistance, ...]
    pruning: Pruning
    chosen: Chosen | None = None
    final: FinalResult | None = None

    @property
    def pruned(self) -> tuple[PrunedRun, ...]:
        """The trainings that were ended early, oldest first."""
        return self.pruning.cut

    def name_of(self, run: int) -> str:
        """Return what figures and tables call the ranked run of that record."""
        found = [one for one in self.ranking if one.run == run]
        return name_of(found[0]) if found else f"run {run}"

    @property
    def complete(self) -> tuple[Training, ...]:
        """The complete trainings, oldest first."""
        return tuple(sorted((each for one in self.ranking for each in one.trainings), key=lambda one: one.order))

    @property
    def in_time_order(self) -> tuple[RankedRun, ...]:
        """The candidates with complete trainings, by the first of each, oldest first."""
        return tuple(sorted(self.ranking, key=lambda one: one.order))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, without the learning curves."""
        plain: dict[str, Any] = to_plain(self)
        return plain
