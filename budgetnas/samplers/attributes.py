"""A trial's attributes for the dashboard: a JSON value, its number of parameters, its constraints and a note.

Each attribute is a transaction, so nearly everything is in the JSON value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from budgetnas.architecture import Counts
from budgetnas.architecture.budget import BYTES, QUANTITIES, Budget, Quantity, Verdict, amount, heading
from budgetnas.metrics import Epoch
from budgetnas.space.candidates import Candidate

ATTRIBUTE: Final = "budgetnas"
"""User attribute that holds the JSON value."""
PARAMS: Final = "params"
"""User attribute with the number of parameters: the dashboard sorts by plain numbers only."""
REPEAT_OF: Final = "repeat_of"
"""User attribute of a repeat: the number of the trial that trained the candidate first.

It is written with the proposal, before the trial has a parameter, so a requeued trial stays a repeat when another
process runs it."""
_CURVE: Final = ("epoch", "train_loss", "train_accuracy", "eval_loss", "eval_accuracy", "learning_rate", "seconds")
_NOTE_PIECE: Final = 2045  # the dashboard's maximum per attribute


def describe(trial: optuna.Trial, storage: BaseStorage, candidate: Candidate, verdict: Verdict) -> None:
    """Write what a trial is about to train; a requeued trial has it already."""
    if ATTRIBUTE in trial.user_attrs:
        return
    trial.set_user_attr(PARAMS, verdict.params)
    save_note(trial, storage, note(candidate, verdict, repeat_of(trial)))
    for limit in verdict.budget.limits:
        trial.set_constraint(limit.quantity, limit.count(verdict.counts) - limit.value)
    add(  # last: its presence means that the others are written
        trial,
        architecture=candidate.architecture.describe(),
        recipe=candidate.recipe.describe(),
        params=verdict.params,
        macs=verdict.counts.macs,
        activations=verdict.counts.activations,
        weight_bytes=verdict.counts.weight_bytes,
        ram_bytes=verdict.counts.ram_bytes,
        verdict=verdict.sentence(),
    )


def described(trial: optuna.Trial | FrozenTrial) -> dict[str, Any]:
    """Return the JSON value of a trial."""
    return dict(trial.user_attrs.get(ATTRIBUTE, {}))


def add(trial: optuna.Trial, **values: Any) -> None:
    """Add to the JSON value of a running trial."""
    trial.set_user_attr(ATTRIBUTE, described(trial) | values)


def add_stored(storage: BaseStorage, trial: FrozenTrial, **values: Any) -> None:
    """Add to the JSON value of a trial that is no longer running."""
    storage.set_trial_user_attr(trial._trial_id, ATTRIBUTE, described(trial) | values)


def repeat_of(trial: optuna.Trial | FrozenTrial) -> int | None:
    """Return the number of the trial that a trial repeats, or None."""
    number: int | None = trial.user_attrs.get(REPEAT_OF)
    return number


def mark_repeat(storage: BaseStorage, trial: FrozenTrial, number: int | None) -> None:
    """Mark a trial as a repeat of trial `number`, or as no repeat."""
    storage.set_trial_user_attr(trial._trial_id, REPEAT_OF, number)
    trial.set_user_attr(REPEAT_OF, number)


def compact(curve: Sequence[Epoch]) -> dict[str, list[float]]:
    """Return a curve as a list of values for each metric."""
    return {name: [round(getattr(epoch, name), 6) for epoch in curve] for name in _CURVE}


def note(candidate: Candidate, verdict: Verdict, repeated: int | None = None) -> str:
    """Return the Markdown note that the dashboard shows for a trial; for a repeat it names the first trial."""
    repeat = "" if repeated is None else f"Repeat of trial {repeated}, with another training seed.\n\n"
    limited = {limit.quantity for limit in verdict.budget.limits}
    shown = [quantity for quantity in QUANTITIES[1:] if quantity in limited or quantity not in BYTES]
    rows = "\n".join(
        f"| {part.name} | {part.counts.params:,} | {verdict.share(part.counts.params):.1%} "
        f"| {' | '.join(_cell(verdict.budget, quantity, part.counts) for quantity in shown)} |"
        for part in verdict.parts
    )
    return (
        f"**{candidate.architecture.describe()}**\n\n{repeat}{candidate.recipe.describe()}\n\n{verdict.sentence()}\n\n"
        f"| part | parameters | of the budget | {' | '.join(map(heading, shown))} |\n"
        f"|---|---:|---:|{'---:|' * len(shown)}\n{rows}\n"
    )


def _cell(budget: Budget, quantity: Quantity, counts: Counts) -> str:
    """Return a count, with its share of the limit if there is a limit."""
    shares = [f" ({limit.share(counts):.1%})" for limit in budget.limits if limit.quantity == quantity]
    return f"{amount(quantity, getattr(counts, quantity))}{''.join(shares)}"


def save_note(trial: optuna.Trial, storage: BaseStorage, body: str) -> None:
    """Write a trial's first note in the format of optuna-dashboard 0.21.

    The dashboard's own function reads the notes of all trials twice, and its import takes seconds.
    """
    study, key = trial.study._study_id, f"dashboard:{trial._trial_id}"
    storage.set_study_system_attr(study, f"{key}:note_ver", 1)
    for number, start in enumerate(range(0, len(body), _NOTE_PIECE)):
        storage.set_study_system_attr(study, f"{key}:note_str:{number}", body[start : start + _NOTE_PIECE])
