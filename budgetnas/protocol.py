"""How a study spends its epochs and how its winner is chosen: values that are fixed before the first trial."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from budgetnas.recipe import Frozen

PrunerName = Literal["asha", "median", "none"]
DEFAULT_FINALISTS = 3
DEFAULT_FINAL_SEEDS = 3


class Fidelity(Frozen):
    """Which trials end early.

    Attributes:
        pruner: ``asha`` (asynchronous successive halving, Li et al. 2020, over epochs), ``median`` (below the median
            of the others at the same epoch, Golovin et al. 2017), or ``none``.
        eta: Of the trials that reach a rung, one in `eta` goes on.
        first_rung: The epoch of the first rung; each next one is `eta` times as far.
    """

    pruner: PrunerName = "none"
    eta: int = Field(default=4, ge=2, le=100)
    first_rung: int = Field(default=1, ge=1, le=10_000)

    def rungs(self, epochs: int) -> tuple[int, ...]:
        """Return the epochs, before the last of `epochs`, after which a trial may end."""
        if self.pruner == "none":
            return ()
        if self.pruner == "median":
            return tuple(range(self.first_rung, epochs))
        rungs, rung = [], self.first_rung
        while rung < epochs:
            rungs.append(rung)
            rung *= self.eta
        return tuple(rungs)

    def describe(self, epochs: int) -> str:
        """Return it in words for trials of `epochs`; empty without a pruner."""
        if self.pruner == "none":
            return ""
        rungs = self.rungs(epochs)
        if not rungs:
            return f"{self.pruner}, but its first rung is epoch {self.first_rung} of {epochs}: nothing is cut"
        if self.pruner == "median":
            rule, shown = "what is below the median of the complete trials ends", f"from epoch {rungs[0]} on"
        else:
            rule, shown = f"the best 1/{self.eta} go on", f"after epoch {', '.join(map(str, rungs))} of {epochs}"
        return f"{self.pruner}, {shown} {rule}; seed trials always go on"


class ChoiceProtocol(Frozen):
    """How the winner is chosen.

    Attributes:
        finalists: Candidates that are trained again, the best by smoothed score.
        seeds: Fresh training seeds for each, and for each of the networks that the test split is read for.
    """

    finalists: int = Field(default=DEFAULT_FINALISTS, ge=1, le=100)
    seeds: int = Field(default=DEFAULT_FINAL_SEEDS, ge=2, le=100)


class Finalist(Frozen):
    """A candidate of a final.

    Attributes:
        run: Its record of the search, the first if it has several.
        score: Its smoothed score, a validation accuracy as a share of 1.
        accuracy: Its validation accuracy, the mean of all its records of the search.
        trainings: How many these are.
    """

    run: int
    score: float
    accuracy: float
    trainings: int = 1


class FinalPlan(Frozen):
    """What a final trains, decided before it begins.

    Attributes:
        protocol: How many finalists and seeds.
        finalists: The candidates, best smoothed score first.
        reference: The best seed network within the budget, by smoothed score; nothing where none was trained.
    """

    protocol: ChoiceProtocol
    finalists: tuple[Finalist, ...] = Field(min_length=1)
    reference: Finalist | None = None

    @property
    def entrants(self) -> tuple[Finalist, ...]:
        """Everything that is trained again: the finalists, and the reference where it is not one of them."""
        others = {one.run for one in self.finalists}
        return (*self.finalists, *([self.reference] if self.reference and self.reference.run not in others else []))
