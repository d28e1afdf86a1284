"""A study: its trials, its best network, and what can be made of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, overload

from budgetnas.architecture import Architecture
from budgetnas.errors import BudgetnasError, plural
from budgetnas.report import StudyTables, study_tables
from budgetnas.report.values import Chosen
from budgetnas.runs.reopen import DataPlace, study_specification
from budgetnas.space.recipe import Recipe
from budgetnas.space.specification import StudySpecification
from budgetnas.storage import SEARCHED, Records, Role, Run, State
from budgetnas.storage.opening import look_at_records
from budgetnas.storage.urls import masked, parse_storage

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Trial:
    """A trained, failed or running trial of a study.

    Attributes:
        number: Its number in the study.
        run: Number of its record, for `Study.export`.
        state: ``complete``, ``pruned``, ``failed``, ``running`` or ``interrupted``.
        initial_trial: Name of the initial trial that it is, or empty.
        repeat: Whether it trains an earlier candidate again, with another seed.
        architecture: The network.
        recipe: How it is trained.
        seed: Seed of initial weights, order and augmentation.
        params: Trainable parameters.
        macs: Multiply-accumulates of a forward pass, per image.
        activations: Output elements of all convolutions, per image.
        budget_share: Its parameters as a share of the budget.
        accuracy: Validation accuracy after the last epoch, a share of 1; None unless it is complete or pruned.
        epochs: Epochs that are recorded.
        seconds: Duration; None while it runs.
        reason: Why it failed or was pruned, or empty.
    """

    number: int
    run: int
    state: State
    initial_trial: str
    repeat: bool
    architecture: Architecture
    recipe: Recipe
    seed: int
    params: int
    macs: int
    activations: int
    budget_share: float
    accuracy: float | None
    epochs: int
    seconds: float | None
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Return a flat row: plain values, with the parts of architecture and recipe that a search varies."""
        row = {item.name: getattr(self, item.name) for item in fields(self)}
        architecture, recipe = row.pop("architecture"), row.pop("recipe")
        return row | {
            "state": self.state.value,
            "network": architecture.describe(),
            "block": architecture.block,
            "blocks": "-".join(map(str, architecture.blocks)),
            "widths": "-".join(map(str, architecture.widths)),
            "optimizer": recipe.optimizer,
            "learning_rate": recipe.learning_rate,
            "weight_decay": recipe.weight_decay,
        }


@dataclass(frozen=True, slots=True)
class Trials(Sequence[Trial]):
    """The trials of a study in the order of their start: a sequence of frozen rows."""

    rows: tuple[Trial, ...]

    @overload
    def __getitem__(self, index: int) -> Trial: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Trial, ...]: ...
    def __getitem__(self, index: int | slice) -> Trial | tuple[Trial, ...]:
        return self.rows[index]

    def __len__(self) -> int:
        return len(self.rows)

    def to_dataframe(self) -> pd.DataFrame:
        """Return a pandas data frame with a row for each trial, and the columns of `Trial.to_dict`.

        Raises:
            BudgetnasError: If pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError:
            hint = "install it, or use [trial.to_dict() for trial in study.trials]"
            raise BudgetnasError(f"to_dataframe: pandas is not installed; {hint}") from None
        return pd.DataFrame([trial.to_dict() for trial in self.rows])


@dataclass(frozen=True, slots=True)
class Study:
    """A study in its storage. Everything is read when it is asked for, so a running search shows its new trials.

    Attributes:
        name: Its name.
        storage: Its database.
    """

    name: str
    storage: str = field(repr=False)
    _place: DataPlace = field(repr=False)

    @property
    def specification(self) -> StudySpecification:
        """What the study was created with: space, budget, recipes, data and seeds."""
        with self._records() as records:
            return study_specification(records, self.name)

    @property
    def trials(self) -> Trials:
        """Its trials in the order of their start, as frozen rows (`Trial`)."""
        with self._records() as records:
            limit = study_specification(records, self.name).max_params
            runs = [run for run in records.runs(study=self.name) if run.role in SEARCHED]
            counted = (run.id for run in runs if run.state in (State.COMPLETE, State.PRUNED))
            accuracies = {run: curve[-1].eval_accuracy for run, curve in records.curves(counted).items()}
        return Trials(tuple(_trial(run, accuracies.get(run.id), limit) for run in runs))

    @property
    def best(self) -> Chosen | None:
        """The network that the study recommends: its final's winner, else its search's; None before any is trained."""
        return self.tables.chosen

    @property
    def tables(self) -> StudyTables:
        """Everything that its report shows, as frozen values; ``to_dict()`` gives plain JSON types."""
        with self._records() as records:
            return study_tables(records, self.name)

    def __repr__(self) -> str:
        return f"<Study {self.name!r} in {masked(parse_storage(self.storage))}: {self._standing()}>"

    def _standing(self) -> str:
        tables = self.tables
        trained = f"{plural(tables.tallies.trained, 'trial')} trained"
        chosen = tables.chosen
        if chosen is None:
            return trained
        return f"{trained}, the winner has {chosen.run.params:,} parameters and {chosen.accuracy:.2%} on validation"

    @contextmanager
    def _records(self) -> Iterator[Records]:
        with closing(look_at_records(parse_storage(self.storage))) as records:
            yield records


def _trial(run: Run, accuracy: float | None, max_params: int) -> Trial:
    assert run.trial is not None, "a run of a search has a trial"
    return Trial(
        number=run.trial,
        run=run.id,
        state=run.state,
        initial_trial=run.label,
        repeat=run.role is Role.REPEAT,
        architecture=run.architecture,
        recipe=run.recipe,
        seed=run.seed,
        params=run.params,
        macs=run.macs,
        activations=run.activations,
        budget_share=run.params / max_params,
        accuracy=accuracy,
        epochs=run.epochs_done,
        seconds=run.seconds,
        reason=run.reason,
    )
