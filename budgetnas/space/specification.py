"""The study specification: an immutable description of a search, stored when its study is created."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Final, Literal, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from budgetnas.architecture.budget import Budget, in_kilobytes
from budgetnas.data.contents import describe_difference
from budgetnas.data.identity import FOLDER, DataIdentity
from budgetnas.errors import InputError
from budgetnas.metrics import ACCURACY, BALANCED, Measure
from budgetnas.space.candidates import CandidateSpace
from budgetnas.space.initial_trials import INITIAL_TRIALS, check_initial_trial
from budgetnas.space.recipe import Frozen, RecipeSpace, RecipeSpaceName
from budgetnas.space.search_space import InputShape, SearchSpace

PrunerName = Literal["asha", "median", "model", "none"]
ObjectiveName = Literal["accuracy", "balanced-accuracy"]
Objective = Literal["validation accuracy after the last epoch", "balanced validation accuracy after the last epoch"]
OBJECTIVES: Final[Mapping[ObjectiveName, Objective]] = {
    "accuracy": "validation accuracy after the last epoch",
    "balanced-accuracy": "balanced validation accuracy after the last epoch",
}
"""The objectives by the name that a user gives. The balanced accuracy is the mean of the accuracies of all classes."""
DEFAULT_FINALISTS = 3
DEFAULT_FINAL_SEEDS = 3
_FLAGS = {
    "max_params": "--budget",
    "max_macs": "--max-macs",
    "max_activations": "--max-activations",
    "max_weight_bytes": "--max-weights-kb",
    "max_ram_bytes": "--max-ram-kb",
    "recipe_space": "--recipe-space",
    "recipes.epochs": "--epochs",
    "recipes.batch": "--batch-size",
    "data.name": "--data",
    "data.content_hash": "--data",
    "data.subset": "--subset",
    "data.subset_eval": "--subset-eval",
    "data.split_seed": "--split-seed",
    "data.resolution": "--resolution",
    "data.skipped": "--skip-damaged",
    "data.bit_depth": "bit_depth",
    "fidelity.pruner": "--pruner",
    "objective": "--objective",
    "choice.finalists": "--finalists",
    "choice.seeds": "--final-seeds",
    "choice.final_epochs": "--final-epochs",
}


class Fidelity(Frozen):
    """How trials are pruned."""

    # ``asha`` (asynchronous successive halving over epochs, Li et al. 2020), ``median`` (prunes below the median of the
    # other trials at the same epoch, Golovin et al. 2017), ``model`` (successive halving by the expected accuracy after
    # the last epoch), or ``none``.
    pruner: PrunerName = "none"
    eta: int = Field(default=4, ge=2, le=100)  # the best 1/`eta` of the trials at a rung continue
    # Epoch of the first rung; each further rung is at `eta` times the epoch of the previous.
    first_rung: int = Field(default=1, ge=1, le=10_000)

    def rungs(self, epochs: int) -> tuple[int, ...]:
        """Return the epochs, before the last of `epochs`, after which a trial may be pruned."""
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
        """Describe the pruning of trials of `epochs`; empty without a pruner."""
        if self.pruner == "none":
            return ""
        rungs = self.rungs(epochs)
        if not rungs:
            return f"{self.pruner}, but its first rung is epoch {self.first_rung} of {epochs}: no trial is pruned"
        shown = f"after epoch {', '.join(map(str, rungs))} of {epochs}"
        if self.pruner == "median":
            rule, shown = "trials below the median of the complete trials are pruned", f"from epoch {rungs[0]} on"
        elif self.pruner == "model":
            rule = f"the best 1/{self.eta} by expected accuracy continue"
        else:
            rule = f"the best 1/{self.eta} continue"
        return f"{self.pruner}, {shown} {rule}; initial trials are never pruned"


class ChoiceProtocol(Frozen):
    """How the winner is chosen."""

    added_later: ClassVar[tuple[str, ...]] = ("final_epochs",)

    # Number of candidates in the final, those with the highest expected accuracies.
    finalists: int = Field(default=DEFAULT_FINALISTS, ge=1, le=100)
    # Fresh training seeds per candidate, and per network that is evaluated on the test split.
    seeds: int = Field(default=DEFAULT_FINAL_SEEDS, ge=2, le=100)
    # Epochs of the networks that are evaluated on the test split, trained with the recipe for long trainings; None for
    # the search's epochs and the candidate's own recipe.
    final_epochs: int | None = Field(default=None, ge=1, le=10_000)


class StudySpecification(Frozen):
    """The description of a search; it does not change during the lifetime of its study."""

    added_later: ClassVar[tuple[str, ...]] = ("max_macs", "max_activations", "max_weight_bytes", "max_ram_bytes")

    version: Literal[2] = 2  # of this format
    max_params: int = Field(ge=1)
    # Limits on the other quantities of `Counts`; None for no limit.
    max_macs: int | None = Field(default=None, ge=1)
    max_activations: int | None = Field(default=None, ge=1)
    max_weight_bytes: int | None = Field(default=None, ge=1)
    max_ram_bytes: int | None = Field(default=None, ge=1)
    space: SearchSpace
    recipe_space: RecipeSpaceName = "paper"  # name of the recipe space that `recipes` is based on
    recipes: RecipeSpace  # the search space of recipes, and the length of a trial
    data: DataIdentity
    inputs: InputShape  # shape of the data and number of classes
    seeds: tuple[str, ...] = INITIAL_TRIALS  # names of the initial trials
    fidelity: Fidelity = Fidelity()
    choice: ChoiceProtocol | None = None  # None until the study is finished
    objective: Objective = OBJECTIVES["accuracy"]  # the value of a trial, by which everything is ranked

    @model_validator(mode="after")
    def _known_seeds(self) -> Self:
        for seed in self.seeds:
            check_initial_trial(seed)
        return self

    @property
    def measure(self) -> Measure:
        """The figure of an epoch that is the objective."""
        return measure_of(self.objective)

    @property
    def budget(self) -> Budget:
        """The limits on every network."""
        return Budget(self.max_params, self.max_macs, self.max_activations, self.max_weight_bytes, self.max_ram_bytes)

    @property
    def candidates(self) -> CandidateSpace:
        """The search space of candidates."""
        return CandidateSpace(self.space, self.recipes, self.inputs)

    def require_same(self, stored: StudySpecification, study: str) -> None:
        """Check that `study` was created with this specification.

        Raises:
            InputError: If anything differs; it lists every difference.
        """
        differences = list(_differences(stored.model_dump(mode="json"), self.model_dump(mode="json")))
        if not differences:
            return
        path = differences[0][0]
        changes = "; ".join(
            f"{_FLAGS.get(path, path)} was {_short(path, was)}, now {_short(path, now)}"
            for path, was, now in differences
        )
        rule, hint = f"study {study!r} was created with another specification ({changes})", "use the same options"
        if path == "data.name" and stored.data.content_hash == self.data.content_hash:
            old = stored.data.name.removeprefix(FOLDER)
            hint = f"the images are the same: name their folder {old!r} again, or name a link {old!r}"
        if path == "choice.final_epochs":
            hint = f"train its winner longer with budgetnas finish {shlex.quote(study)} --final-epochs N"
        if stored.data.content_hash != self.data.content_hash:
            files = describe_difference(stored.data.content_hash, self.data.content_hash)
            rule += f"; {files}" if files else "; the content of the images differs"
            hint = "restore the original images"
        raise InputError(_FLAGS.get(path, path), None, rule, f"{hint}, or use another name with --study")


def measure_of(objective: Objective) -> Measure:
    """Return the figure of an epoch that is the objective."""
    return ACCURACY if objective == OBJECTIVES["accuracy"] else BALANCED


def read_specification(text: str) -> StudySpecification:
    """Return the specification from a storage's JSON.

    Raises:
        InputError: If this version cannot read it.
    """
    try:
        return StudySpecification.model_validate_json(text)
    except ValidationError as error:
        raise InputError("--study", None, f"its specification cannot be read ({first_problem(error)})") from None


_RULES: Final[Mapping[str, str]] = {
    "extra_forbidden": "there is no such key",
    "missing": "is missing",
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "must be a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "must be a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "must be true or false"),
    **dict.fromkeys(("tuple_type", "list_type"), "must be a list"),
    "string_type": "must be text",
    "path_type": "must be a path",
}
"""Rules in our words, by pydantic's types of errors."""


def first_problem(error: ValidationError) -> str:
    """Return the first problem that pydantic found as a line: where, the given value, the rule."""
    problem = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in problem["loc"])
    given = problem.get("input")
    shown = "" if isinstance(given, dict) or problem["type"] in ("missing", "value_error") else f" {given!r}"
    rule = _rule(problem)
    return f"{where}{shown}: {rule[:1].lower()}{rule[1:]}" if where else rule


def refused(
    error: ValidationError, source: str, name: str | None = None, option: Callable[[str], str] | None = None
) -> InputError:
    """Return the error of the first problem that pydantic found.

    Args:
        error: The error of pydantic. An `InputError` of our own checks in it is returned as it is.
        source: Argument that the values come from.
        name: Value of that argument, or None without one.
        option: The argument that gives a single value alone, by the value's field. Without a `name` of the source the
            error names it.
    """
    problem = error.errors(include_url=False)[0]
    cause = problem.get("ctx", {}).get("error")
    if isinstance(cause, InputError):
        return cause
    field, *inner = problem["loc"] or ("",)
    if name is None and option is not None and field and not any(isinstance(part, str) for part in inner):
        rule = _rule(problem)
        return InputError(option(str(field)), problem.get("input"), f"{rule[:1].lower()}{rule[1:]}")
    return InputError(source, name, first_problem(error))


def _rule(problem: ErrorDetails) -> str:
    return _RULES.get(problem["type"], problem["msg"].removeprefix("Value error, "))


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


def _short(path: str, value: Any) -> str:
    """Return a value as its option takes it."""
    in_bytes = path in ("max_weight_bytes", "max_ram_bytes") and value is not None
    text = in_kilobytes(value) if in_bytes else "none" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
