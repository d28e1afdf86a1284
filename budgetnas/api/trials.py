"""The trials of a study as frozen rows, as a table and as a data frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, overload

from budgetnas.api.tables import html_table
from budgetnas.architecture import Architecture, count
from budgetnas.errors import BudgetnasError
from budgetnas.metrics import ACCURACY, Measure
from budgetnas.space.recipe import EXTRAS, Recipe
from budgetnas.storage import Role, Run, State

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Trial:
    """A trained, failed or running trial of a study.

    Attributes:
        number: Its number in the study.
        run: Number of its record, for `Study.export`.
        state: ``complete``, ``pruned``, ``failed``, ``running`` or ``interrupted``.
        initial_trial: Its name if it is an initial trial, else empty.
        repeat: Whether it trains an earlier candidate again, with another seed.
        architecture: The network.
        recipe: How it is trained.
        seed: Seed of initial weights, order and augmentation.
        params: Trainable parameters.
        macs: Multiply-accumulates of a forward pass, per image.
        activations: Output elements of all convolutions, per image.
        weight_bytes: Bytes of its int8 weights, with scales and biases.
        ram_bytes: Most bytes of int8 activations alive at once.
        budget_share: Its parameters as a share of the budget.
        accuracy: Validation accuracy after the last epoch, a share of 1, balanced if that is the study's objective.
            None unless it is complete or pruned.
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
    weight_bytes: int
    ram_bytes: int
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
            "stem_width": architecture.stem_width,
            "se": architecture.se,
            "optimizer": recipe.optimizer,
            "learning_rate": recipe.learning_rate,
            "weight_decay": recipe.weight_decay,
            **{name: recipe.extra(name) for name in EXTRAS},
        }


@dataclass(frozen=True, slots=True)
class Trials(Sequence[Trial]):
    """The trials of a study in the order of their start: a sequence of frozen rows."""

    rows: tuple[Trial, ...]
    measure: Measure = ACCURACY  # what their accuracies are

    @overload
    def __getitem__(self, index: int) -> Trial: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Trial, ...]: ...
    def __getitem__(self, index: int | slice) -> Trial | tuple[Trial, ...]:
        return self.rows[index]

    def __len__(self) -> int:
        return len(self.rows)

    def _repr_html_(self) -> str:
        rows = [
            (
                trial.number,
                trial.initial_trial,
                trial.architecture.describe(),
                trial.recipe.describe(),
                f"{trial.params:,}",
                "" if trial.accuracy is None else f"{trial.accuracy:.2%}",
                trial.state.value,
            )
            for trial in self.rows
        ]
        measured = self.measure.on("validation")
        return html_table(("trial", "initial trial", "network", "recipe", "parameters", measured, "state"), rows)

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


def trial_of(run: Run, accuracy: float | None, max_params: int) -> Trial:
    """Return the row of a run of a search; `accuracy` is a share of 1, `max_params` the budget."""
    assert run.trial is not None, "a run of a search has a trial"
    counts = count(run.architecture)
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
        weight_bytes=counts.weight_bytes,
        ram_bytes=counts.ram_bytes,
        budget_share=run.params / max_params,
        accuracy=accuracy,
        epochs=run.epochs_done,
        seconds=run.seconds,
        reason=run.reason,
    )
