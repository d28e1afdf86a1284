"""What the tables hold, as frozen values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from budgetnas.architecture import Architecture, count
from budgetnas.architecture.budget import WORDS, Budget, Quantity
from budgetnas.space.recipe import Recipe


class Role(StrEnum):
    """Why a training was made."""

    SEARCH = "search"
    REPEAT = "repeat"
    FINAL = "final"
    REPLAY = "replay"
    COMPARE = "compare"


SEARCHED: Final = (Role.SEARCH, Role.REPEAT)
"""The roles of a search's own trainings, which count towards ``--trials``."""


class State(StrEnum):
    """How a training stands."""

    RUNNING = "running"
    COMPLETE = "complete"
    PRUNED = "pruned"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class RunKey:
    """What makes two trainings the same one: an equal key is not trained again, the record is used."""

    architecture: str
    recipe: str
    data: str
    seed: int
    role: Role


@dataclass(frozen=True, slots=True)
class SearchCounts:
    """Counts of a study's search.

    Attributes:
        trials: Trials that have a training.
        failed: Trainings that failed.
        pruned: Trainings that were pruned.
        epochs_saved: Epochs that these were spared.
        repeats: Complete trainings of candidates that had been trained before.
    """

    trials: int
    failed: int
    pruned: int
    epochs_saved: int
    repeats: int


@dataclass(frozen=True, slots=True)
class Run:
    """One training as it is recorded.

    Attributes:
        id: Number of the record.
        study: Study it belongs to; nothing for a replay.
        trial: Number of its Optuna trial; nothing for a final or a replay.
        role: Why it was made.
        label: Name of the seed or replay it is, or empty.
        architecture: What was trained.
        params: Parameters of the architecture.
        macs: Multiply-accumulates of a forward pass, per image.
        activations: Output elements of all convolutions, per image.
        recipe: How it was trained.
        data: Data identity, as JSON.
        seed: Seed of initial weights, order and augmentation.
        environment: What its bits depend on, as JSON: device, threads, precision, versions.
        state: How it stands.
        reason: Why it failed or was pruned, or empty.
        epochs_asked: Epochs of the recipe.
        epochs_done: Epochs recorded.
        started_at: Seconds since 1970 UTC.
        ended_at: Seconds since 1970 UTC; nothing while it runs.
        weights_sha256: SHA-256 of the trained weights as a safetensors file; nothing unless it is complete.
    """

    id: int
    study: str | None
    trial: int | None
    role: Role
    label: str
    architecture: Architecture
    params: int
    macs: int
    activations: int
    recipe: Recipe
    data: str
    seed: int
    environment: str
    state: State
    reason: str
    epochs_asked: int
    epochs_done: int
    started_at: float
    ended_at: float | None
    weights_sha256: str | None = None

    @property
    def seconds(self) -> float | None:
        """How long it took."""
        return None if self.ended_at is None else self.ended_at - self.started_at


@dataclass(frozen=True, slots=True)
class Attempt:
    """A process's share in a training.

    Attributes:
        epochs_before: Epochs that were done before it.
        environment: What its bits depend on, as JSON.
        holder: The process, in words.
        started_at: Seconds since 1970 UTC.
    """

    epochs_before: int
    environment: str
    holder: str
    started_at: float


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A training's state after an epoch, kept in a file.

    Attributes:
        epoch: Epochs done.
        file: Name of the file in the folder of its run.
        sha256: SHA-256 of what it must hold.
    """

    epoch: int
    file: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Goal:
    """What the last search of a study was asked for.

    Attributes:
        trials: Runs that the study shall have in all.
        sampler: Name of the inner sampler.
    """

    trials: int
    sampler: str


@dataclass(frozen=True, slots=True)
class Rejection:
    """A proposal that was turned away before anything was built.

    Which other limits it broke, and by how much, follows from its counts and its study's specification.

    Attributes:
        architecture: What was proposed.
        origin: Who proposed it: ``sampler``, ``seed v1-sgd``, ``enqueued``.
        max_params: The limit on parameters it was held against.
        overshoot: Parameters over that limit; 0 for a duplicate, and for what broke other limits only.
        duplicate: True if it was turned away because the study has it already.
        trial: The Optuna trial it was proposed for, if there was one.
    """

    architecture: Architecture
    origin: str
    max_params: int
    overshoot: int
    duplicate: bool = False
    trial: int | None = None

    @classmethod
    def of(cls, architecture: Architecture, origin: str, budget: Budget, trial: int | None = None) -> Rejection:
        """Return the rejection of a network: over the budget or, if it keeps all of it, a duplicate."""
        counts = count(architecture)
        overshoot = max(0, counts.params - budget.max_params)
        return cls(architecture, origin, budget.max_params, overshoot, not budget.excesses(counts), trial)


@dataclass(frozen=True, slots=True)
class Broken:
    """How many of the proposals over the budget broke one of its limits.

    Attributes:
        quantity: What is limited.
        most: The limit.
        proposals: How many broke it; one that broke several counts for each.
    """

    quantity: Quantity
    most: int
    proposals: int

    @property
    def words(self) -> str:
        """What is limited, in words."""
        return WORDS[self.quantity]
