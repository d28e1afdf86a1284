"""Rows of the tables as frozen values."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from budgetnas.architecture import Architecture, count
from budgetnas.architecture.budget import WORDS, Budget, Quantity
from budgetnas.space.candidates import Candidate
from budgetnas.space.recipe import Recipe


def or_null(value: float) -> float | None:
    """Return `value`, or None for NaN, which SQLite cannot store."""
    return None if math.isnan(value) else value


def or_nan(value: Any) -> Any:
    """Return `value`, or NaN for None."""
    return math.nan if value is None else value


def counts_to_json(counts: tuple[int, ...]) -> str | None:
    """Return counts by class as JSON, or None for none."""
    return json.dumps(counts) if counts else None


def counts_from_json(text: str | None) -> tuple[int, ...]:
    """Return the counts that `counts_to_json` wrote."""
    return tuple(json.loads(text)) if text else ()


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
    """Counts of a study's search."""

    trials: int  # trials that have a run
    failed: int  # runs that failed
    pruned: int  # runs that were pruned
    repeats: int  # complete runs of candidates that had been trained before


@dataclass(frozen=True, slots=True)
class Run:
    """A recorded training."""

    id: int  # number of the record
    study: str | None  # name of its study, or None for a replay
    trial: int | None  # number of its Optuna trial, or None for a final or a replay
    role: Role  # why it was made
    label: str  # name of the initial trial or of the replay, or empty
    architecture: Architecture
    params: int
    macs: int  # multiply-accumulates of a forward pass, per image
    activations: int  # output elements of all convolutions, per image
    recipe: Recipe
    data: str  # data identity, as JSON
    seed: int  # seed of initial weights, order and augmentation
    environment: str  # what its bitwise result depends on, as JSON: device, threads, precision, versions
    state: State
    reason: str  # why it failed or was pruned, or empty
    epochs_asked: int  # epochs of the recipe
    epochs_done: int  # epochs recorded
    started_at: float  # seconds since 1970 UTC
    ended_at: float | None  # seconds since 1970 UTC, or None while it runs
    # SHA-256 of the trained weights as a safetensors file; None unless the run is complete.
    weights_sha256: str | None = None

    @property
    def candidate(self) -> Candidate:
        """What was trained, and how."""
        return Candidate(self.architecture, self.recipe)

    @property
    def seconds(self) -> float | None:
        """Its duration, or None while it runs."""
        return None if self.ended_at is None else self.ended_at - self.started_at


@dataclass(frozen=True, slots=True)
class Attempt:
    """The part of a run that a process trained."""

    epochs_before: int  # epochs done before it
    environment: str  # what its bitwise result depends on, as JSON
    holder: str  # the process, in words
    started_at: float  # seconds since 1970 UTC


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of a run after an epoch, kept in a file."""

    epoch: int  # epochs done
    file: str  # name of the file in the folder of its run
    sha256: str  # SHA-256 of the file


@dataclass(frozen=True, slots=True)
class Goal:
    """Request of the last search of a study."""

    trials: int  # number of trained trials in total
    sampler: str  # name of the inner sampler


class QueueState(StrEnum):
    """What becomes of a study in the queue."""

    QUEUED = "queued"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class QueueEntry:
    """A study that was queued or cancelled."""

    study: str
    state: QueueState
    reason: str  # why it failed, or empty
    data: str | None  # ``folder:DIR`` of its images, or None for a named set
    data_dir: Path | None  # folder of downloaded archives, or None
    seed: int  # seed of the sampler
    at: float  # when it was queued or cancelled, seconds since 1970 UTC


@dataclass(frozen=True, slots=True)
class Rejection:
    """A proposal that was rejected before anything was built.

    The excess over other limits is not stored; it follows from the counts and the study's specification.
    """

    architecture: Architecture
    origin: str  # who proposed it: ``sampler``, ``seed v1-sgd``, ``enqueued``
    max_params: int  # the limit on parameters
    overshoot: int  # parameters over that limit; 0 for a duplicate, and where only other limits are exceeded
    duplicate: bool = False  # whether it was rejected because the study has it already
    trial: int | None = None  # number of the Optuna trial it was proposed for, or None

    @classmethod
    def of(cls, architecture: Architecture, origin: str, budget: Budget, trial: int | None = None) -> Rejection:
        """Return the rejection of a network that is over the budget or, if it fits, a duplicate."""
        counts = count(architecture)
        overshoot = max(0, counts.params - budget.max_params)
        return cls(architecture, origin, budget.max_params, overshoot, not budget.excesses(counts), trial)


@dataclass(frozen=True, slots=True)
class OverLimit:
    """How many rejected proposals were over a limit."""

    quantity: Quantity
    most: int  # the limit
    proposals: int  # proposals over it; a proposal over several limits counts for each

    @property
    def words(self) -> str:
        """The limited quantity, in words."""
        return WORDS[self.quantity]
