"""The search space of candidates: architectures and recipes together.

The parameters of the architecture and the searched extras of the recipe are proposed together. Those of an optimiser
exist only in trials that use it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from budgetnas.architecture import Architecture
from budgetnas.space.ranges import Choice, Condition, LogRange, Params, Range, Value, existing
from budgetnas.space.recipe import OPTIMIZER_OF, Recipe, RecipeSpace
from budgetnas.space.search_space import InputShape, SearchSpace


@dataclass(frozen=True, slots=True)
class Candidate:
    """An architecture and a recipe; with data and a seed they define a training."""

    architecture: Architecture
    recipe: Recipe

    @property
    def key(self) -> tuple[str, str]:
        """Digests of architecture and recipe, equal for equal candidates."""
        return self.architecture.digest, self.recipe.digest


@dataclass(frozen=True, slots=True)
class CandidateSpace:
    """The search space of candidates: architectures from `space` and recipes from `recipes`."""

    space: SearchSpace
    recipes: RecipeSpace
    inputs: InputShape

    def ranges(self) -> dict[str, Range]:
        """Return the range of every parameter that a trial can have, architecture first."""
        ranges: dict[str, Range] = {**self.space.ranges(), "optimizer": Choice(self.recipes.optimizers)}
        choices = self.recipes.extras()
        for optimizer in self.recipes.optimizers:
            rates = self.recipes.range_of(optimizer)
            ranges |= {name: Choice(choices[extra]) for extra, name in self._searched(optimizer).items()}
            ranges[f"{optimizer}_learning_rate"] = LogRange(*rates.learning_rate)
            ranges[f"{optimizer}_weight_decay"] = Choice(rates.weight_decay)
        return ranges

    def conditions(self) -> dict[str, Condition]:
        """Return for each parameter that only some trials have: the parameter and values on which it depends."""
        optimizers = self.recipes.optimizers
        rates = {name: ("optimizer", (chosen,)) for chosen in optimizers for name in self.names_for(chosen)}
        return {**self.space.conditions(), **rates}

    def names(self, params: Mapping[str, Value]) -> tuple[str, ...]:
        """Return the names of the parameters of a trial with the number of stages and the optimiser in `params`."""
        return existing(self.ranges(), params, self.conditions())

    def problem(self, params: Mapping[str, Value]) -> str | None:
        """Return which value is outside its range, and why, or None if all are inside."""
        for name, values in self.ranges().items():
            if name in params and (problem := values.problem(params[name])) is not None:
                return f"{name} = {params[name]} {problem}"
        return None

    def joint_names(self) -> tuple[str, ...]:
        """Return the names of the parameters that are proposed together, parents before those that depend on them."""
        shared = (name for extra, name in self._searched("sgd").items() if extra not in OPTIMIZER_OF)
        return (*self.space.ranges(), "optimizer", *shared)

    def names_for(self, optimizer: Value) -> tuple[str, ...]:
        """Return the names of the parameters that exist only when `optimizer` is chosen."""
        own = (name for extra, name in self._searched(optimizer).items() if extra in OPTIMIZER_OF)
        return f"{optimizer}_learning_rate", f"{optimizer}_weight_decay", *own

    def candidate(self, params: Mapping[str, Value]) -> Candidate:
        """Return the candidate that the parameters define."""
        optimizer = params["optimizer"]
        recipe = self.recipes.recipe(
            "sgd" if optimizer == "sgd" else "adam",
            learning_rate=float(params[f"{optimizer}_learning_rate"]),
            weight_decay=float(params[f"{optimizer}_weight_decay"]),
            chosen={extra: params[name] for extra, name in self._searched(optimizer).items()},
        )
        return Candidate(self.space.architecture(params, self.inputs), recipe)

    def params_of(self, candidate: Candidate) -> Params | None:
        """Return the parameters that define `candidate`, or None if it is not in the space."""
        params = self.space.params_of(candidate.architecture)
        recipe = candidate.recipe
        if params is None or recipe.optimizer not in self.recipes.optimizers:
            return None
        rates = self.recipes.range_of(recipe.optimizer)
        low, high = rates.learning_rate
        if not low <= recipe.learning_rate <= high or recipe.weight_decay not in rates.weight_decay:
            return None
        extras = self._searched(recipe.optimizer)
        params |= {
            "optimizer": recipe.optimizer,
            **{name: recipe.extra(extra) for extra, name in extras.items()},
            f"{recipe.optimizer}_learning_rate": recipe.learning_rate,
            f"{recipe.optimizer}_weight_decay": recipe.weight_decay,
        }
        choices = self.recipes.extras()
        inside = all(recipe.extra(extra) in choices[extra] for extra in extras)
        return params if inside and self.candidate(params) == candidate else None

    def _searched(self, optimizer: Value) -> dict[str, str]:
        """Return the searched extras of trials with `optimizer`, each with the name of its parameter."""
        return {
            extra: f"{optimizer}_{extra}" if extra in OPTIMIZER_OF else extra
            for extra, choices in self.recipes.extras().items()
            if len(choices) > 1 and OPTIMIZER_OF.get(extra, optimizer) == optimizer
        }
