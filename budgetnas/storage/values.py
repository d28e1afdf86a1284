"""Rows of the tables as frozen values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from budgetnas.architecture import Architecture, count
from budgetnas.architecture.budget import WORDS, Budget, Quantity
from budgetnas.space.recipe import Recipe


class Role(StrEnum):
    """Why a run was made."""

    SEARCH = "search"
    REPEAT = "repeat"
    FINAL = "final"
    REPLAY = "replay"
    COMPARE = "compare"


SEARCHED: Final = (Role.SEARCH, Role.REPEAT)
"""Roles of the runs that count towards ``--trials``."""


class State(StrEnum):
    """State of a run."""

    RUNNING = "running"
    COMPLETE = "complete"
    PRUNED = "pruned"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class RunKey:
    """Identifies a run. If a run with an equal key is recorded, its record is used instead of another training."""

    architecture: str
    recipe: str
    data: str
    seed: int
    role: Role


@dataclass(frozen=True, slots=True)
class SearchCounts:
    """Counts of a study's search.

    Attributes:
        trials: Trials that have a run.
        failed: Runs that failed.
        pruned: Runs that were pruned.
        epochs_saved: Epochs that pruning saved.
        repeats: Complete runs of candidates that had been trained before.
    """

    trials: int
    failed: int
    pruned: int
    epochs_saved: int
    repeats: int


@dataclass(frozen=True, slots=True)
class Run:
    """A recorded training.

    Attributes:
        id: Number of the record.
        study: Name of its study, or None for a replay.
        trial: Number of its Optuna trial, or None for a final or a replay.
        role: Why it was made.
        label: Name of the initial trial or of the replay, or empty.
        architecture: What was trained.
        params: Parameters of the architecture.
        macs: Multiply-accumulates of a forward pass, per image.
        activations: Output elements of all convolutions, per image.
        recipe: How it was trained.
        data: Data identity, as JSON.
        seed: Seed of initial weights, order and augmentation.
        environment: What its bitwise result depends on, as JSON: device, threads, precision, versions.
        state: Its state.
        reason: Why it failed or was pruned, or empty.
        epochs_asked: Epochs of the recipe.
        epochs_done: Epochs recorded.
        started_at: Seconds since 1970 UTC.
        ended_at: Seconds since 1970 UTC, or None while it runs.
        weights_sha256: SHA-256 of the trained weights as a safetensors file, or None unless it is complete.
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
        """Its duration, or None while it runs."""
        return None if self.ended_at is None else self.ended_at - self.started_at


@dataclass(frozen=True, slots=True)
class Attempt:
    """The part of a run that a process trained.

    Attributes:
        epochs_before: Epochs done before it.
        environment: What its bitwise result depends on, as JSON.
        holder: The process, in words.
        started_at: Seconds since 1970 UTC.
    """

    epochs_before: int
    environment: str
    holder: str
    started_at: float


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of a run after an epoch, kept in a file.

    Attributes:
        epoch: Epochs done.
        file: Name of the file in the folder of its run.
        sha256: SHA-256 of the file.
    """

    epoch: int
    file: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Goal:
    """Request of the last search of a study.

    Attributes:
        trials: Number of trained trials in total.
        sampler: Name of the inner sampler.
    """

    trials: int
    sampler: str


@dataclass(frozen=True, slots=True)
class Rejection:
    """A proposal that was rejected before anything was built.

    The excess over other limits is not stored; it follows from the counts and the study's specification.

    Attributes:
        architecture: What was proposed.
        origin: Who proposed it: ``sampler``, ``seed v1-sgd``, ``enqueued``.
        max_params: The limit on parameters.
        overshoot: Parameters over that limit; 0 for a duplicate, and where only other limits are exceeded.
        duplicate: Whether it was rejected because the study has it already.
        trial: Number of the Optuna trial it was proposed for, or None.
    """

    architecture: Architecture
    origin: str
    max_params: int
    overshoot: int
    duplicate: bool = False
    trial: int | None = None

    @classmethod
    def of(cls, architecture: Architecture, origin: str, budget: Budget, trial: int | None = None) -> Rejection:
        """Return the rejection of a network that is over the budget or, if it fits, a duplicate."""
        counts = count(architecture)
        overshoot = max(0, counts.params - budget.max_params)
        return cls(architecture, origin, budget.max_params, overshoot, not budget.excesses(counts), trial)


@dataclass(frozen=True, slots=True)
class OverLimit:
    """How many rejected proposals were over a limit.

    Attributes:
        quantity: The limited quantity.
        most: The limit.
        proposals: Proposals over it; a proposal over several limits counts for each.
    """

    quantity: Quantity
    most: int
    proposals: int

    @property
    def words(self) -> str:
        """The limited quantity, in words."""
        return WORDS[self.quantity]
