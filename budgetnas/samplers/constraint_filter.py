"""The constraint filter: a sampler around another sampler that rejects proposals before a trial receives them.

Reporting candidates over the budget as pruned or failed trials instead would use up trials, and a model-based sampler
would learn where the budget ends rather than which networks are accurate.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from copy import copy
from typing import Any, Final, cast

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from budgetnas.architecture.budget import Budget
from budgetnas.errors import SearchFailedError
from budgetnas.samplers.attributes import mark_repeat, repeat_of
from budgetnas.samplers.budget_sampler.pool import NothingFitsError
from budgetnas.samplers.distributions import distribution
from budgetnas.space.candidates import Candidate, CandidateSpace
from budgetnas.space.ranges import Condition, Params, Range, Steps, Value, draw_evenly, exists
from budgetnas.storage import Rejection

MAX_PROPOSALS: Final = 32
"""Proposals of the inner sampler for a trial before a feasible candidate is drawn by construction."""
MAX_SECONDS: Final = 5.0
"""Time limit for these proposals; only slow samplers reach it."""
MAX_FEASIBLE_DRAWS: Final = 100
"""Feasible draws for a trial, all of known candidates, before the space counts as used up."""
FIXED_PARAMS: Final = "fixed_params"
"""System attribute in which Optuna stores the parameters of an enqueued trial."""


class SpaceUsedUpError(SearchFailedError):
    """All candidates that were drawn are known already."""

    def __init__(self, trial: int) -> None:
        self.trial = trial
        super().__init__(f"the last {MAX_FEASIBLE_DRAWS} candidates drawn within the budget are all known already")


class ConstraintFilter(BaseSampler):
    """Passes on proposals of an inner sampler that are within the budget and new, or repeated on purpose.

    The parameters of the architecture, the optimiser and the extras of the recipe are proposed together. The inner
    sampler sees a value for each of them in every trial: the middle of the range where a trial has no such stage.
    Numbers between those of a table are moved to the nearest. If the architecture fits, the parameters of the chosen
    optimiser follow one at a time, since only some trials have them.

    Args:
        inner: Any Optuna sampler for a single objective.
        space: The search space.
        budget: The limits of the architecture.
        known: Whether the study has a candidate already.
        reject: Called once per trial with its rejected proposals.
        seed: Seed of the feasible draws.
        repeated: For an inner sampler that repeats candidates on purpose: returns the number of the trial that trained
            a candidate first, or None. Repeated proposals pass and their trials are marked; feasible draws must be new.
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
        self._ranges, self._conditions = space.ranges(), space.conditions()
        self._distributions = {name: distribution(values) for name, values in self._ranges.items()}
        self._joint = {name: self._distributions[name] for name in space.joint_names()}
        only = {name: values.only for name, values in self._ranges.items() if values.only is not None}
        self._single = space.candidate(only) if only.keys() == self._ranges.keys() else None

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return every parameter that a trial can have, because a proposal is checked as a whole."""
        return dict(self._distributions)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the parameters of an accepted candidate; empty for a trial that has parameters already."""
        if self._has_params(trial):
            return {}
        rejected: list[Rejection] = []
        try:
            params = self._propose(study, trial, rejected)
        finally:
            self._reject(rejected)
        self._mark(study, trial, self._space.candidate(params))
        return dict(params)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return the inner sampler's value of a parameter outside the proposal, or for a table an even draw from it."""
        if isinstance(self._ranges.get(param_name), Steps):
            return self._evenly(param_name)
        return self._inner.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Call the inner sampler; check the candidate of a space that has only one, since nothing is proposed then."""
        self._inner.before_trial(study, trial)
        if self._single is not None and FIXED_PARAMS not in trial.system_attrs:
            self._check_single(study, trial, self._single)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Call the inner sampler."""
        self._inner.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        """Reseed, as parallel workers must."""
        self._inner.reseed_rng()
        self._random.seed()

    def _has_params(self, trial: FrozenTrial) -> bool:
        """Return whether a trial was enqueued or requeued with parameters.

        Optuna asks for a proposal when a trial first suggests a parameter with several values. Parameters with a single
        value are in the trial by then.
        """
        chosen = [name for name in trial.params if name not in self._ranges or self._ranges[name].only is None]
        return bool(chosen) or FIXED_PARAMS in trial.system_attrs

    def _propose(self, study: Study, trial: FrozenTrial, rejected: list[Rejection]) -> Params:
        def asked(name: str) -> Any:
            return self.sample_independent(study, trial, name, self._distributions[name])

        whole = cast(Study, _WholeStudy(study, self._joint, self._ranges, self._conditions))
        tried: list[Params] = []
        deadline = time.monotonic() + MAX_SECONDS
        for _ in range(MAX_PROPOSALS):
            proposed = self._inner_proposal(whole, trial)
            if proposed is None:
                break
            joint = self._filled(proposed, self._joint, asked)
            if joint in tried:
                break  # a sampler that repeats itself would take too long
            may_repeat = self._repeated is not None
            params = self._accepted(joint, asked, "sampler", trial.number, rejected, may_be_known=may_repeat)
            if params is not None:
                return params
            tried.append(joint)
            if time.monotonic() > deadline:
                break
        for _ in range(MAX_FEASIBLE_DRAWS):
            drawn = self._space.space.draw_feasible(self._space.inputs, self._budget, self._random)
            joint = self._filled(drawn, self._joint, self._evenly)
            params = self._accepted(joint, self._evenly, "feasible draw", trial.number, rejected)
            if params is not None:
                return params
        raise SpaceUsedUpError(trial.number)

    def _inner_proposal(self, study: Study, trial: FrozenTrial) -> Params | None:
        """Return the inner sampler's proposal; None if it finds no candidate that fits."""
        try:
            return self._inner.sample_relative(study, trial, self._joint)
        except NothingFitsError:
            return None

    def _check_single(self, study: Study, trial: FrozenTrial, candidate: Candidate) -> None:
        if self._repeated is None and self._known(candidate):
            study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
            raise SpaceUsedUpError(trial.number)
        self._mark(study, trial, candidate)

    def _mark(self, study: Study, trial: FrozenTrial, candidate: Candidate) -> None:
        """Mark a repeat, or correct the mark of a process that died before it wrote a parameter."""
        number = None if self._repeated is None else self._repeated(candidate)
        if number != repeat_of(trial):
            mark_repeat(study._storage, trial, number)

    def _filled(self, params: Params, names: Iterable[str], value: Callable[[str], Value]) -> Params:
        """Return `params` with an allowed value for each of `names` that the candidate has, and without the others."""
        complete = dict(params)
        for name in names:
            values = self._ranges[name]
            if not exists(name, complete, self._conditions):
                complete.pop(name, None)
            elif values.only is not None:
                complete[name] = values.only  # exactly; a sampler's log scale may be off in the last bit
            elif name not in complete:
                complete[name] = value(name)
            elif isinstance(values, Steps):
                complete[name] = values.nearest(float(complete[name]))
        return complete

    def _evenly(self, name: str) -> Value:
        return draw_evenly(self._ranges[name], self._random)

    def _accepted(
        self,
        joint: Params,
        value: Callable[[str], Value],
        origin: str,
        trial: int,
        rejected: list[Rejection],
        *,
        may_be_known: bool = False,
    ) -> Params | None:
        """Return the complete candidate, or record its rejection; rates are drawn only for networks that fit."""
        architecture = self._space.space.architecture(joint, self._space.inputs)
        if self._budget.fits(architecture):
            params = self._filled(joint, self._space.names_for(joint["optimizer"]), value)
            if may_be_known or not self._known(self._space.candidate(params)):
                return params
        rejected.append(Rejection.of(architecture, origin, self._budget, trial))
        return None


class _WholeStudy:
    """A study in which every trial has a value for each parameter that is proposed together with others.

    Optuna's samplers cannot propose parameters together that only some trials have: TPE would leave out the trials
    without them, and the Gaussian process and the genetic algorithm need a value from each.
    """

    def __init__(
        self, study: Study, names: Iterable[str], ranges: Mapping[str, Range], conditions: Mapping[str, Condition]
    ) -> None:
        self._study = study
        self._conditions = {name: conditions[name] for name in names if name in conditions}
        self._ranges = ranges

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        trials = self._study._get_trials(deepcopy, states, use_cache)
        return [self._whole(trial) for trial in trials] if self._conditions else trials

    def _whole(self, trial: FrozenTrial) -> FrozenTrial:
        params = trial.params
        missing = {
            name: values.middle
            for name, (parent, _) in self._conditions.items()
            if parent in params
            and not exists(name, params, self._conditions)
            and isinstance(values := self._ranges[name], Steps)
        }
        if not missing:
            return trial
        whole = copy(trial)
        whole.params = {**params, **missing}
        whole.distributions = {**trial.distributions, **{name: distribution(self._ranges[name]) for name in missing}}
        return whole
