"""The budget gate: a sampler around another one that turns down what the budget forbids before a trial has it.

Reporting an over-budget candidate as pruned or failed instead would use up a trial for it, and would have a
model-based sampler learn the forbidden region rather than accuracy.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from budgetnas.architecture.budget import Budget
from budgetnas.errors import SearchFailedError
from budgetnas.samplers.attributes import mark_repeat, repeat_of
from budgetnas.samplers.budget_sampler.pool import NothingFitsError
from budgetnas.samplers.distributions import distribution
from budgetnas.space.search_space import Candidate, CandidateSpace, Choice, LogRange, Params, Range, Value, WholeRange
from budgetnas.storage import Rejection

MAX_PROPOSALS: Final = 32
"""Proposals of the inner sampler for one trial before a feasible one is drawn by construction."""
MAX_SECONDS: Final = 5.0
"""Time for these proposals; only a sampler that takes long for one comes to feel it."""
MAX_FEASIBLE_DRAWS: Final = 100
"""Feasible draws for one trial, each a candidate already known, before the space counts as used up."""
FIXED_PARAMS: Final = "fixed_params"
"""System attribute in which Optuna keeps the parameters of an enqueued trial."""


class SpaceUsedUpError(SearchFailedError):
    """Every candidate that could be drawn is known already.

    Args:
        trial: Number of the trial that stays without a candidate.
    """

    def __init__(self, trial: int) -> None:
        self.trial = trial
        super().__init__(f"the last {MAX_FEASIBLE_DRAWS} candidates drawn within the budget are all known already")


class ConstraintFilter(BaseSampler):
    """Proposes candidates of an inner sampler that keep the budget and are not known yet, or are repeated on purpose.

    What every trial has, the architecture's parameters, the optimiser and the recipe's extras, is asked of the inner
    sampler together; then, if the architecture fits, what belongs to the chosen optimiser one by one, since it exists
    in some trials only.

    Args:
        inner: Any single-objective Optuna sampler.
        space: What a candidate is drawn from.
        budget: What its architecture must keep.
        known: Tells whether the study has a candidate already.
        reject: Is handed all that was turned down for one trial, once.
        seed: Seed of the draws by construction.
        repeated: For an inner sampler that proposes a candidate again on purpose: tells the number of the trial that
            trained it first, or nothing. What it proposes again is let through and its trial marked; what is drawn by
            construction must be new nevertheless.
    """

    def __init__(
        self,
        inner: BaseSampler,
        space: CandidateSpace,
        budget: Budget,
        *,
        known: Callable[[Candidate], bool],
        reject: Callable[[Sequence[Rejection]], None],
        seed: int | None = None,
        repeated: Callable[[Candidate], int | None] | None = None,
    ) -> None:
        self._inner = inner
        self._space = space
        self._budget = budget
        self._known = known
        self._reject = reject
        self._repeated = repeated
        self._random = random.Random(seed)
        self._ranges = space.ranges()
        self._distributions = {name: distribution(one) for name, one in self._ranges.items()}
        self._joint = {name: self._distributions[name] for name in space.joint_names()}
        only = {name: one.only for name, one in self._ranges.items() if one.only is not None}
        self._one = space.candidate(only) if only.keys() == self._ranges.keys() else None

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return every parameter a trial can have: all are proposed together, so that all can be judged."""
        return dict(self._distributions)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the parameters of a candidate that keeps the budget; none for a trial that has its own."""
        if self._has_its_own(trial):
            return {}
        refused: list[Rejection] = []
        try:
            params = self._propose(study, trial, refused)
        finally:
            self._reject(refused)
        self._mark(study, trial, self._space.candidate(params))
        return dict(params)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return the inner sampler's value for a parameter that no proposal held."""
        return self._inner.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Pass on to the inner sampler; judge the trial of a space of one candidate, of which no proposal is asked."""
        self._inner.before_trial(study, trial)
        if self._one is not None and FIXED_PARAMS not in trial.system_attrs:
            self._judge_the_one(study, trial, self._one)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Pass on to the inner sampler."""
        self._inner.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        """Seed anew, as parallel workers must."""
        self._inner.reseed_rng()
        self._random.seed()

    def _has_its_own(self, trial: FrozenTrial) -> bool:
        """Return whether a trial was enqueued with parameters, or put back with them.

        Optuna asks for a proposal when a trial first suggests a parameter that has more than one value; those with one
        value are in the trial by then.
        """
        chosen = [name for name in trial.params if name not in self._ranges or self._ranges[name].only is None]
        return bool(chosen) or FIXED_PARAMS in trial.system_attrs

    def _propose(self, study: Study, trial: FrozenTrial, refused: list[Rejection]) -> Params:
        def asked(name: str) -> Any:
            return self._inner.sample_independent(study, trial, name, self._distributions[name])

        turned_down: list[Params] = []
        deadline = time.monotonic() + MAX_SECONDS
        for _ in range(MAX_PROPOSALS):
            proposed = self._asked_together(study, trial)
            if proposed is None:
                break
            joint = self._filled(proposed, self._joint, asked)
            if joint in turned_down:
                break  # a sampler that repeats itself would not come to an answer soon
            again = self._repeated is not None
            params = self._accepted(joint, asked, "sampler", trial.number, refused, may_be_known=again)
            if params is not None:
                return params
            turned_down.append(joint)
            if time.monotonic() > deadline:
                break  # nor would one that is slow
        for _ in range(MAX_FEASIBLE_DRAWS):
            drawn = self._space.space.draw_feasible(self._space.inputs, self._budget, self._random)
            joint = self._filled(drawn, self._joint, self._evenly)
            params = self._accepted(joint, self._evenly, "feasible draw", trial.number, refused)
            if params is not None:
                return params
        raise SpaceUsedUpError(trial.number)

    def _asked_together(self, study: Study, trial: FrozenTrial) -> Params | None:
        """Return what the inner sampler proposes; nothing where it finds none that fits."""
        try:
            return self._inner.sample_relative(study, trial, self._joint)
        except NothingFitsError:
            return None

    def _judge_the_one(self, study: Study, trial: FrozenTrial, candidate: Candidate) -> None:
        if self._repeated is None and self._known(candidate):
            study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
            raise SpaceUsedUpError(trial.number)
        self._mark(study, trial, candidate)

    def _mark(self, study: Study, trial: FrozenTrial, candidate: Candidate) -> None:
        """Mark a repeat as such; what was marked by a process that died before it wrote a parameter may be none now."""
        number = None if self._repeated is None else self._repeated(candidate)
        if number != repeat_of(trial):
            mark_repeat(study._storage, trial, number)

    def _filled(self, params: Params, names: Iterable[str], value: Callable[[str], Value]) -> Params:
        """Return `params` with a value for each of `names`."""
        complete = dict(params)
        for name in names:
            only = self._ranges[name].only
            if only is not None:
                complete[name] = only  # what the trial will have; a sampler's log scale may be off by a bit
            elif name not in complete:
                complete[name] = value(name)
        return complete

    def _evenly(self, name: str) -> Value:
        return draw_evenly(self._ranges[name], self._random)

    def _accepted(
        self,
        joint: Params,
        value: Callable[[str], Value],
        origin: str,
        trial: int,
        refused: list[Rejection],
        *,
        may_be_known: bool = False,
    ) -> Params | None:
        """Return the whole candidate, or note why there is none; the rates are drawn only for what fits."""
        architecture = self._space.space.architecture(joint, self._space.inputs)
        if self._budget.fits(architecture):
            params = self._filled(joint, self._space.names_for(joint["optimizer"]), value)
            if may_be_known or not self._known(self._space.candidate(params)):
                return params
        refused.append(Rejection.of(architecture, origin, self._budget, trial))
        return None


def draw_evenly(one: Range, generator: random.Random) -> Value:
    """Return a value drawn evenly from a range, on its scale."""
    match one:
        case WholeRange(low, high):
            return generator.randint(low, high)
        case LogRange(low, high):
            return min(high, max(low, math.exp(generator.uniform(math.log(low), math.log(high)))))
        case Choice(values):
            return generator.choice(values)
