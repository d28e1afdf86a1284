"""The study specification: one frozen value that says what a search is, stored when its study is created."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, ValidationError, model_validator

from budgetnas.architecture.budget import Budget
from budgetnas.data.identity import DataIdentity
from budgetnas.errors import InputError
from budgetnas.space.initial_trials import INITIAL_TRIALS
from budgetnas.space.recipe import Frozen, RecipeSpace, RecipeSpaceName
from budgetnas.space.search_space import CandidateSpace, InputShape, SearchSpace

PrunerName = Literal["asha", "median", "none"]
DEFAULT_FINALISTS = 3
DEFAULT_FINAL_SEEDS = 3
_FLAGS = {
    "max_params": "--budget",
    "max_macs": "--max-macs",
    "max_activations": "--max-activations",
    "recipe_space": "--recipe-space",
    "recipes.epochs": "--epochs",
    "recipes.batch": "--batch-size",
    "data.name": "--data",
    "data.content_hash": "--data",
    "data.subset": "--subset",
    "data.subset_eval": "--subset-eval",
    "data.split_seed": "--split-seed",
    "data.resolution": "--resolution",
    "fidelity.pruner": "--pruner",
    "choice.finalists": "--finalists",
    "choice.seeds": "--final-seeds",
}


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


class StudySpecification(Frozen):
    """What a search is; nothing in it may change while its study lives.

    Attributes:
        version: Version of this description.
        max_params: The budget: the most parameters a network may have.
        max_macs: The most multiply-accumulates of a forward pass, per image; nothing: no such limit.
        max_activations: The most output elements of all convolutions, per image; nothing: no such limit.
        space: The architectures that may be proposed.
        recipe_space: Name of the space that `recipes` began as.
        recipes: The recipes that may be proposed, and how long each trial trains.
        data: Which data.
        inputs: Their shape and number of classes.
        seeds: The seed trials, by name.
        fidelity: Which trials end early.
        choice: How the winner is chosen; nothing: decided when the study is finished.
        objective: What a trial is judged by.
    """

    added_later: ClassVar[tuple[str, ...]] = ("max_macs", "max_activations")

    version: Literal[1] = 1
    max_params: int = Field(ge=1)
    max_macs: int | None = Field(default=None, ge=1)
    max_activations: int | None = Field(default=None, ge=1)
    space: SearchSpace
    recipe_space: RecipeSpaceName = "paper"
    recipes: RecipeSpace
    data: DataIdentity
    inputs: InputShape
    seeds: tuple[str, ...] = INITIAL_TRIALS
    fidelity: Fidelity = Fidelity()
    choice: ChoiceProtocol | None = None
    objective: Literal["validation accuracy after the last epoch"] = "validation accuracy after the last epoch"

    @model_validator(mode="after")
    def _known_seeds(self) -> Self:
        unknown = [seed for seed in self.seeds if seed not in INITIAL_TRIALS]
        if unknown:
            raise ValueError(f"seeds: {', '.join(unknown)} unknown; known are {', '.join(INITIAL_TRIALS)}")
        return self

    @property
    def budget(self) -> Budget:
        """The limits that every network keeps."""
        return Budget(self.max_params, self.max_macs, self.max_activations)

    @property
    def candidates(self) -> CandidateSpace:
        """Everything a trial draws."""
        return CandidateSpace(self.space, self.recipes, self.inputs)

    def require_same(self, stored: StudySpecification, study: str) -> None:
        """Check that this is the specification that `study` was created with.

        Raises:
            InputError: If anything differs; it names every difference.
        """
        differences = list(_differences(stored.model_dump(mode="json"), self.model_dump(mode="json")))
        if not differences:
            return
        path = differences[0][0]
        told = "; ".join(
            f"{_FLAGS.get(path, path)} was {_short(was)}, now {_short(now)}" for path, was, now in differences
        )
        raise InputError(
            _FLAGS.get(path, path),
            None,
            f"study {study!r} was created with another specification ({told})",
            "use what it was created with, or another name with --study",
        )


def read_specification(text: str) -> StudySpecification:
    """Return the specification that a storage holds.

    Raises:
        InputError: If this version cannot read it.
    """
    try:
        return StudySpecification.model_validate_json(text)
    except ValidationError as error:
        raise InputError("--study", None, f"its specification cannot be read ({first_problem(error)})") from None


def first_problem(error: ValidationError) -> str:
    """Return the first problem that pydantic found, in one line: where, what was given, the rule."""
    problem = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in problem["loc"])
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        message = "there is no such key"
    given = problem.get("input")
    shown = "" if isinstance(given, dict) or problem["type"] in ("missing", "value_error") else f" {given!r}"
    return f"{where}{shown}: {message[:1].lower()}{message[1:]}" if where else message


def _differences(was: Any, now: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    if was == now:
        return
    if isinstance(was, dict | None) and isinstance(now, dict | None):
        before, after = was or {}, now or {}
        for name in sorted(before.keys() | after.keys()):
            inner = f"{path}.{name}" if path else name
            yield from _differences(before.get(name), after.get(name), inner)
    else:
        yield path, was, now


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
