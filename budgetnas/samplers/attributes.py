"""What a trial tells the dashboard, beside its constraint: one JSON value, its parameters as a number, and a note.

Each attribute is a transaction of its own, so that all but one number go into one value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from budgetnas.architecture import Counts
from budgetnas.architecture.budget import Budget, Quantity, Verdict
from budgetnas.metrics import Epoch
from budgetnas.space.search_space import Candidate

ATTRIBUTE: Final = "budgetnas"
"""User attribute that holds the JSON value."""
PARAMS: Final = "params"
"""User attribute with the number of parameters once more: the dashboard sorts by numbers only."""
REPEAT_OF: Final = "repeat_of"
"""User attribute of a trial that trains a candidate once more: the number of the trial that trained it first.

It is written with the proposal, before the trial has a parameter: a trial that is put back and taken by another process
stays the repeat that it is."""
_NOTE_PIECE: Final = 2045  # the most that the dashboard puts into one attribute


def describe(trial: optuna.Trial, storage: BaseStorage, candidate: Candidate, verdict: Verdict) -> None:
    """Tell what a trial is about to train; nothing for a trial that was put back and told it before."""
    if ATTRIBUTE in trial.user_attrs:
        return
    trial.set_user_attr(PARAMS, verdict.params)
    save_note(trial, storage, note(candidate, verdict, repeat_of(trial)))
    for limit in verdict.budget.limits:
        trial.set_constraint(limit.quantity, limit.count(verdict.counts) - limit.value)
    add(  # last: it says that the others are there
        trial,
        architecture=candidate.architecture.describe(),
        recipe=candidate.recipe.describe(),
        params=verdict.params,
        macs=verdict.counts.macs,
        activations=verdict.counts.activations,
        verdict=verdict.sentence(),
    )


def described(trial: optuna.Trial | FrozenTrial) -> dict[str, Any]:
    """Return what a trial told."""
    return dict(trial.user_attrs.get(ATTRIBUTE, {}))


def add(trial: optuna.Trial, **values: Any) -> None:
    """Add to what a trial told."""
    trial.set_user_attr(ATTRIBUTE, described(trial) | values)


def add_stored(storage: BaseStorage, trial: FrozenTrial, **values: Any) -> None:
    """Add to what a trial told that nobody runs any more."""
    storage.set_trial_user_attr(trial._trial_id, ATTRIBUTE, described(trial) | values)


def repeat_of(trial: optuna.Trial | FrozenTrial) -> int | None:
    """Return the number of the trial whose candidate a trial trains once more, or nothing."""
    number: int | None = trial.user_attrs.get(REPEAT_OF)
    return number


def mark_repeat(storage: BaseStorage, trial: FrozenTrial, number: int | None) -> None:
    """Note that a trial trains the candidate of trial `number` once more, or no other's."""
    storage.set_trial_user_attr(trial._trial_id, REPEAT_OF, number)
    trial.set_user_attr(REPEAT_OF, number)


def is_rejected(trial: FrozenTrial) -> bool:
    """Return whether the gate turned a trial's candidate away, so that no run was made."""
    return bool(described(trial).get("rejected"))


def compact(curve: Sequence[Epoch]) -> dict[str, list[float]]:
    """Return a curve as a list for each figure."""
    names = tuple(Epoch.__dataclass_fields__)
    return {name: [round(getattr(epoch, name), 6) for epoch in curve] for name in names}


def note(candidate: Candidate, verdict: Verdict, repeated: int | None = None) -> str:
    """Return the Markdown note that the dashboard shows for a trial, and for a repeat which trial it repeats."""
    once_more = "" if repeated is None else f"Repeat of trial {repeated}, with another training seed.\n\n"
    rows = "\n".join(
        f"| {part.name} | {part.counts.params:,} | {verdict.share(part.counts.params):.1%} "
        f"| {_cell(verdict.budget, 'macs', part.counts)} | {_cell(verdict.budget, 'activations', part.counts)} |"
        for part in verdict.parts
    )
    return (
        f"**{candidate.architecture.describe()}**\n\n{once_more}{candidate.recipe.describe()}\n\n{verdict.sentence()}\n\n"
        "| part | parameters | of the budget | multiply-accumulates | activations |\n"
        f"|---|---:|---:|---:|---:|\n{rows}\n"
    )


def _cell(budget: Budget, quantity: Quantity, counts: Counts) -> str:
    """Return a count, and its share of the limit where there is one."""
    shares = [f" ({limit.share(counts):.1%})" for limit in budget.limits if limit.quantity == quantity]
    return f"{getattr(counts, quantity):,}{''.join(shares)}"


def save_note(trial: optuna.Trial, storage: BaseStorage, body: str) -> None:
    """Write a trial's first note in the form of the dashboard 0.21.

    Its own function reads the notes of all trials, twice, and its import takes seconds.
    """
    study, key = trial.study._study_id, f"dashboard:{trial._trial_id}"
    storage.set_study_system_attr(study, f"{key}:note_ver", 1)
    for number, start in enumerate(range(0, len(body), _NOTE_PIECE)):
        storage.set_study_system_attr(study, f"{key}:note_str:{number}", body[start : start + _NOTE_PIECE])
